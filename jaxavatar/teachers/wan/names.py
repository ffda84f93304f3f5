r"""Where the tensors of released checkpoints go.

Two spellings are known: that of the authors (Wan, and OmniAvatar on top of it) and diffusers'.
The names follow the published code; no released file was at hand.
"""

from jaxavatar.teachers.wan.config import AutoencoderConfig, TransformerConfig
from jaxavatar.weights.torch_names import Rule

_BLOCK = r"blocks\.(\d+)\."


def transformer_rules(config: TransformerConfig) -> tuple[Rule, ...]:
    """Return the rules for `WanTransformer`'s parameters."""
    return (
        Rule(r"patch_embedding", "patches", "conv"),
        Rule(r"text_embedding\.0|condition_embedder\.text_embedder\.linear_1", "text_in", "linear"),
        Rule(
            r"text_embedding\.2|condition_embedder\.text_embedder\.linear_2", "text_out", "linear"
        ),
        Rule(r"time_embedding\.0|condition_embedder\.time_embedder\.linear_1", "time/in", "linear"),
        Rule(
            r"time_embedding\.2|condition_embedder\.time_embedder\.linear_2", "time/out", "linear"
        ),
        Rule(r"time_projection\.1|condition_embedder\.time_proj", "time/blocks", "linear"),
        Rule(r"head\.modulation|scale_shift_table", "modulation", "tensor"),
        Rule(r"head\.head|proj_out", "out", "linear"),
        Rule(rf"{_BLOCK}(?:modulation|scale_shift_table)", r"block\1/modulation", "tensor"),
        *_attention("self_attn", "attn1", "self_attention"),
        *_attention("cross_attn", "attn2", "cross_attention"),
        # The authors count norms in the order of their making, diffusers in that of their use;
        # the other two have no parameters.
        Rule(rf"{_BLOCK}norm[23]", r"block\1/cross_norm", "norm"),
        Rule(rf"{_BLOCK}ffn\.(?:0|net\.0\.proj)", r"block\1/feed_forward/up", "linear"),
        Rule(rf"{_BLOCK}ffn\.(?:2|net\.2)", r"block\1/feed_forward/down", "linear"),
        Rule(r"audio_proj\.proj", "audio/pack", "linear"),
        Rule(r"audio_proj\.norm_out", "audio/norm", "norm"),
        *(
            Rule(rf"audio_cond_projs\.{number}", f"audio{layer}", "linear")
            for number, layer in enumerate(config.heard)
        ),
    )


def _attention(official: str, diffusers: str, target: str) -> tuple[Rule, ...]:
    source = rf"{_BLOCK}(?:{official}|{diffusers})\."
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return (
        *(
            Rule(rf"{source}(?:{letter}|to_{letter})", rf"block\1/{target}/{name}", "linear")
            for letter, name in list(names.items())[:3]
        ),
        Rule(rf"{source}(?:o|to_out\.0)", rf"block\1/{target}/out", "linear"),
        *(
            Rule(rf"{source}norm_{letter}", rf"block\1/{target}/{names[letter]}_norm", "norm")
            for letter in "qk"
        ),
    )


def autoencoder_rules(config: AutoencoderConfig) -> tuple[Rule, ...]:
    """Return the rules for the parameters "encoder" and "decoder" of the autoencoder."""
    rules = [
        Rule(r"conv1|quant_conv", "encoder/moments", "pointwise"),
        Rule(r"conv2|post_quant_conv", "decoder/latents", "pointwise"),
        *_residual(r"encoder\.(?:downsamples|down_blocks)\.(\d+)", r"encoder/down\1"),
        Rule(
            r"encoder\.(?:downsamples|down_blocks)\.(\d+)\.resample\.1",
            r"encoder/down\1/space",
            "conv",
        ),
        Rule(
            r"encoder\.(?:downsamples|down_blocks)\.(\d+)\.time_conv",
            r"encoder/down\1/time",
            "conv",
        ),
    ]
    for part in ("encoder", "decoder"):
        attention = rf"{part}\.(?:middle\.1|mid_block\.attentions\.0)\."
        rules += [
            Rule(rf"{part}\.(?:conv1|conv_in)", f"{part}/first/conv", "conv"),
            *_residual(rf"{part}\.(?:middle\.0|mid_block\.resnets\.0)", f"{part}/middle0"),
            Rule(rf"{attention}norm\.gamma", f"{part}/attention/norm/scale", "tensor"),
            Rule(rf"{attention}to_qkv", f"{part}/attention/qkv", "pointwise"),
            Rule(rf"{attention}proj", f"{part}/attention/out", "pointwise"),
            *_residual(rf"{part}\.(?:middle\.2|mid_block\.resnets\.1)", f"{part}/middle1"),
            Rule(rf"{part}\.(?:head\.0|norm_out)\.gamma", f"{part}/norm/scale", "tensor"),
            Rule(rf"{part}\.(?:head\.2|conv_out)", f"{part}/last/conv", "conv"),
        ]
    # The authors number the decoder's layers through, diffusers by stages.
    number = 0
    for stage in range(len(config.multipliers)):
        for block in range(config.blocks + 1):
            source = rf"decoder\.(?:upsamples\.{number}|up_blocks\.{stage}\.resnets\.{block})"
            rules += _residual(source, f"decoder/up{stage}_{block}")
            number += 1
        source = rf"decoder\.(?:upsamples\.{number}|up_blocks\.{stage}\.upsamplers\.0)\."
        rules += [
            Rule(rf"{source}resample\.1", f"decoder/up{stage}/space", "conv"),
            Rule(rf"{source}time_conv", f"decoder/up{stage}/time/conv", "conv"),
        ]
        number += 1
    return tuple(rules)


def _residual(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{source}\.(?:residual\.0|norm1)\.gamma", f"{target}/norm1/scale", "tensor"),
        Rule(rf"{source}\.(?:residual\.2|conv1)", f"{target}/conv1/conv", "conv"),
        Rule(rf"{source}\.(?:residual\.3|norm2)\.gamma", f"{target}/norm2/scale", "tensor"),
        Rule(rf"{source}\.(?:residual\.6|conv2)", f"{target}/conv2/conv", "conv"),
        Rule(rf"{source}\.(?:shortcut|conv_shortcut)", f"{target}/shortcut", "pointwise"),
    )
