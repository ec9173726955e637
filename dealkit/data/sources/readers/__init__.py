"""One function per public data set, each from the files as published to `ImageRecord`s; by format of the annotations.

Choice: own functions, not supervision or torchgeo. Of the traps below, supervision 0.31 drops COCO's `ignore` and VOC's
`difficult` and passes over annotations of missing images in silence; torchgeo drops `difficult` of DOTA and reads pixels with the
annotations.
"""
