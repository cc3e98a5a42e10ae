// The element-wise losses of the MNC fork: sums of their terms, and the gradient of each term.
// Include cpu.h or cuda.h first; they decide where `for_each` and `sum_into` run.
#pragma once

#include <tuple>

#include "common.h"
#include "tensors.h"

namespace caffe_bridge {
namespace {

inline void check_like(const Tensor& reference, const Optional& other, const char* what) {
  if (!other) return;
  check_same(reference, *other, what);
  STD_TORCH_CHECK(reference.numel() == other->numel(), what, " must have as many elements as the prediction");
}

// A missing weight is 1.
template <typename T>
CB_HD T weight_at(const T* weights, int64_t i) {
  return weights ? weights[i] : T(1);
}

template <typename T>
struct SmoothL1 {
  T sigma2;
  const T *prediction, *target, *inside, *outside;

  CB_HD T difference(int64_t i) const { return weight_at(inside, i) * (prediction[i] - target[i]); }

  CB_HD T value(int64_t i) const {
    const T d = difference(i), size = std::fabs(d);
    const T error = size < T(1) / sigma2 ? T(0.5) * d * d * sigma2 : size - T(0.5) / sigma2;
    return weight_at(outside, i) * error;
  }

  CB_HD T slope(int64_t i) const {
    const T d = difference(i);
    const T g = std::fabs(d) < T(1) / sigma2 ? sigma2 * d : d > T(0) ? T(1) : d < T(0) ? T(-1) : d;
    return weight_at(outside, i) * weight_at(inside, i) * g;
  }
};

template <typename T>
struct CrossEntropy {
  const T *logits, *targets, *weights;

  CB_HD T value(int64_t i) const {
    const T x = logits[i];
    return weight_at(weights, i) * (larger(x, T(0)) - x * targets[i] + std::log1p(std::exp(-std::fabs(x))));
  }

  CB_HD T slope(int64_t i) const {
    return weight_at(weights, i) * (T(1) / (T(1) + std::exp(-logits[i])) - targets[i]);
  }
};

template <typename Loss>
struct Value {
  Loss loss;
  CB_HD double operator()(int64_t i) const { return loss.value(i); }
};

template <typename T>
struct Weight {
  const T* weights;
  CB_HD double operator()(int64_t i) const { return weight_at(weights, i); }
};

template <typename T, typename Loss>
struct Slope {
  Loss loss;
  const T* scale;
  T* result;
  CB_HD void operator()(int64_t i) const { result[i] = scale[0] * loss.slope(i); }
};

template <typename T>
SmoothL1<T> smooth_l1_terms(const Tensor& prediction, const Tensor& target, const Optional& inside,
                            const Optional& outside, double sigma) {
  return {static_cast<T>(sigma) * static_cast<T>(sigma), in<T>(prediction), in<T>(target), in<T>(inside),
          in<T>(outside)};
}

Tensor smooth_l1(const Tensor& prediction_, const Tensor& target_, const Optional& inside_, const Optional& outside_,
                 double sigma) {
  check_like(prediction_, target_, "the target");
  check_like(prediction_, inside_, "the inside weights");
  check_like(prediction_, outside_, "the outside weights");
  const Tensor prediction = dense(prediction_), target = dense(target_);
  const Optional inside = dense(inside_), outside = dense(outside_);
  Tensor sum = empty(prediction, {});
  by_dtype(prediction, [&](auto zero) {
    using T = decltype(zero);
    const auto loss = smooth_l1_terms<T>(prediction, target, inside, outside, sigma);
    sum_into(sum, out<T>(sum), prediction.numel(), Value<SmoothL1<T>>{loss});
  });
  return sum;
}

Tensor smooth_l1_backward(const Tensor& scale, const Tensor& prediction_, const Tensor& target_,
                          const Optional& inside_, const Optional& outside_, double sigma) {
  check_like(prediction_, target_, "the target");
  check_like(prediction_, inside_, "the inside weights");
  check_like(prediction_, outside_, "the outside weights");
  check_same(prediction_, scale, "the scale");
  STD_TORCH_CHECK(scale.numel() == 1, "the scale must be a scalar");
  const Tensor prediction = dense(prediction_), target = dense(target_);
  const Optional inside = dense(inside_), outside = dense(outside_);
  Tensor result = torch::stable::empty_like(prediction);
  by_dtype(prediction, [&](auto zero) {
    using T = decltype(zero);
    const auto loss = smooth_l1_terms<T>(prediction, target, inside, outside, sigma);
    for_each(result, result.numel(), Slope<T, SmoothL1<T>>{loss, in<T>(scale), out<T>(result)});
  });
  return result;
}

std::tuple<Tensor, Tensor> sigmoid_cross_entropy(const Tensor& logits_, const Tensor& targets_,
                                                 const Optional& weights_) {
  check_like(logits_, targets_, "the target");
  check_like(logits_, weights_, "the weights");
  const Tensor logits = dense(logits_), targets = dense(targets_);
  const Optional weights = dense(weights_);
  Tensor sum = empty(logits, {}), weight_sum = empty(logits, {});
  by_dtype(logits, [&](auto zero) {
    using T = decltype(zero);
    const CrossEntropy<T> loss{in<T>(logits), in<T>(targets), in<T>(weights)};
    sum_into(sum, out<T>(sum), logits.numel(), Value<CrossEntropy<T>>{loss});
    sum_into(sum, out<T>(weight_sum), logits.numel(), Weight<T>{in<T>(weights)});
  });
  return {sum, weight_sum};
}

Tensor sigmoid_cross_entropy_backward(const Tensor& scale, const Tensor& logits_, const Tensor& targets_,
                                      const Optional& weights_) {
  check_like(logits_, targets_, "the target");
  check_like(logits_, weights_, "the weights");
  check_same(logits_, scale, "the scale");
  STD_TORCH_CHECK(scale.numel() == 1, "the scale must be a scalar");
  const Tensor logits = dense(logits_), targets = dense(targets_);
  const Optional weights = dense(weights_);
  Tensor result = torch::stable::empty_like(logits);
  by_dtype(logits, [&](auto zero) {
    using T = decltype(zero);
    const CrossEntropy<T> loss{in<T>(logits), in<T>(targets), in<T>(weights)};
    for_each(result, result.numel(), Slope<T, CrossEntropy<T>>{loss, in<T>(scale), out<T>(result)});
  });
  return result;
}

}  // namespace
}  // namespace caffe_bridge
