"""The network definitions of prototxt/, written once as functions on a NetSpec.

model      what a definition is sized by
blocks     single layers with their published settings
trunks     from the image to features
rpn        region proposals
heads      what is predicted for each RoI
resnet     residual nets, whole or stage by stage
mnc, mnc_resnet, cfm, faster_rcnn   the networks
catalogue  every definition by name, with its solver
zoo, ...   the nets of Caffe's own distribution: zoo_imagenet, zoo_googlenet, zoo_small and zoo_lrcn, of zoo_blocks
render     definitions to text; `caffe-bridge make-prototxt` writes it
"""
