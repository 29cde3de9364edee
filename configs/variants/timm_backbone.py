"""The town's model with an image backbone of timm (``pip install -r requirements/timm.txt``)."""

_base_ = ['../thinktwice_minitown.py']

model = dict(
    img_encoder=dict(
        backbone=dict(
            _delete_=True,
            type='TimmBackbone',
            name='mobilenetv3_small_050',
            strides=(4, 8, 16, 32),
            checkpoint=None,  # weights as timm publishes them, such as 'ckpt/model.safetensors'
        ),
        neck=dict(in_channels=None),  # those of the backbone
    ),
)
