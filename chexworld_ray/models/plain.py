"""timm's ViT as it comes: what a step is compared with."""

from timm.models.vision_transformer import VisionTransformer

from chexworld_ray.config import ModelSettings


def plain_vit(settings: ModelSettings) -> VisionTransformer:
    """Three channels, learned positions, no class token, all tokens out."""
    return VisionTransformer(
        img_size=settings.image_size,
        patch_size=settings.patch_size,
        embed_dim=settings.width,
        depth=settings.depth,
        num_heads=settings.heads,
        num_classes=0,
        global_pool="",
        class_token=False,
    )
