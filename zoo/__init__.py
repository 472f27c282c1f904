"""A zoo of high-resolution and label-efficient segmentation methods.

    import zoo
    model = zoo.load("runs/massformer/demo/2026-01-01_12-00-00")
    answer = model.predict("photo.jpg")
"""

__version__ = "0.1.0"


def load(weights: str, device: str = "cpu"):
    """The method behind a run folder, an export folder, a .ckpt or a .safetensors file, ready to predict."""
    from zoo import hub

    return hub.load(weights).to(device).eval()
