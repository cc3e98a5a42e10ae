"""The network definitions of prototxt/, written once as functions on a NetSpec; `caffe-bridge make-prototxt` renders them."""
