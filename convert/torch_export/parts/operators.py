"""How a function stays in one piece when torch exports a program that calls it."""

from __future__ import annotations

import functools

import torch


def caffe_operator(schema, results=None):
    """Function decorator: torch.export keeps the function as the operator torch.ops.caffe.NAME of a schema.

    `results` makes empty results of the right sizes, where the function itself would look at values for that. Calls may
    say as `layer` which layer of Caffe they are, as in a prototxt: this is how programs become Caffe nets again.
    Gradients pass through the function everywhere else, through the operator they do not.
    """
    inputs, outputs = schema.split(" -> ")

    def decorate(function):
        name = function.__name__

        def forget_layer(made):
            return lambda *arguments, layer="", **options: made(*arguments, **options)

        if not hasattr(torch.ops.caffe, name):
            whole = f'{inputs[:-1]}, *, str layer="") -> {outputs}'
            operator = torch.library.custom_op(f"caffe::{name}", forget_layer(function), mutates_args=(), schema=whole)
            operator.register_fake(forget_layer(results or function))

        @functools.wraps(function)
        def called(*arguments, layer="", **options):
            if torch.compiler.is_exporting():
                return getattr(torch.ops.caffe, name)(*arguments, layer=layer, **options)
            return function(*arguments, **options)

        return called

    return decorate


def rows_of_data():
    """A number of rows that torch.export leaves to the data."""
    return torch.library.get_ctx().new_dynamic_size()
