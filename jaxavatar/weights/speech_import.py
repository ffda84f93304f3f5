r"""Released checkpoints of wav2vec 2.0 and Whisper, as parameters of our speech modules.

Names are those of Hugging Face's safetensors files, with or without the prefix that a head above
the model brings. wav2vec 2.0's positional convolution has its weight as a length per tap and a
direction, which PyTorch has called `weight_g` and `weight_v`, and since version 2.0
`parametrizations.weight.original0` and `1`.
"""

from jaxavatar.weights.lhm_import import Release
from jaxavatar.weights.torch_names import Rule, Skip

_KEY_BIAS = "without effect: softmax ignores a bias of the keys"


def _linear(module: str, target: str, names: dict[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(module + name, target + mine, "linear") for name, mine in names.items())


_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}

_W2V = r"(?:wav2vec2\.)?"
_W2V_BLOCK = _W2V + r"encoder\.layers\.(\d+)\."
_W2V_FEED = {r"intermediate_dense": "up", r"output_dense": "down"}
_W2V_POSITION = _W2V + r"encoder\.pos_conv_embed\.conv\."

WAV2VEC2_RULES = (
    Rule(_W2V + r"feature_extractor\.conv_layers\.(\d+)\.conv", r"features/conv\1", "conv"),
    Rule(_W2V + r"feature_extractor\.conv_layers\.(\d+)\.layer_norm", r"features/norm\1", "norm"),
    Rule(_W2V + r"feature_projection\.layer_norm", "projection_norm", "norm"),
    Rule(_W2V + r"feature_projection\.projection", "projection", "linear"),
    Rule(
        _W2V_POSITION + r"(?:weight_g|parametrizations\.weight\.original0)",
        "position/length",
        "tensor",
    ),
    Rule(
        _W2V_POSITION + r"(?:weight_v|parametrizations\.weight\.original1)",
        "position/direction",
        "kernel",
    ),
    Rule(_W2V_POSITION + "bias", "position/bias", "tensor"),
    Rule(_W2V + r"encoder\.layer_norm", "norm", "norm"),
    *_linear(_W2V_BLOCK + r"attention\.", r"block\1/attention/", _ATTENTION),
    *_linear(_W2V_BLOCK + r"feed_forward\.", r"block\1/", _W2V_FEED),
    Rule(_W2V_BLOCK + "layer_norm", r"block\1/attention_norm", "norm"),
    Rule(_W2V_BLOCK + "final_layer_norm", r"block\1/norm", "norm"),
)
WAV2VEC2_SKIPS = (
    Skip(_W2V_BLOCK + r"attention\.k_proj\.bias", _KEY_BIAS),
    Skip(_W2V + "masked_spec_embed", "only used in training"),
    Skip(r"(quantizer|project_q|project_hid)\..*", "only used in pretraining"),
    Skip(r"(lm_head|projector|classifier)\..*", "a head above the model"),
)

_WHISPER = r"(?:model\.)?"


def _whisper_side(side: str, block: str) -> tuple[Rule, ...]:
    layer, mine = _WHISPER + side + r"\.layers\.(\d+)\.", side + rf"/{block}\1/"
    return (
        Rule(_WHISPER + side + r"\.embed_positions\.weight", f"{side}/positions", "tensor"),
        Rule(_WHISPER + side + r"\.layer_norm", f"{side}/norm", "norm"),
        *_linear(layer + r"self_attn\.", mine + "attention/", _ATTENTION),
        Rule(layer + "self_attn_layer_norm", mine + "attention_norm", "norm"),
        *_linear(layer, mine + "feed_forward/", {"fc1": "up", "fc2": "down"}),
        Rule(layer + "final_layer_norm", mine + "feed_forward/norm", "norm"),
    )


WHISPER_RULES = (
    Rule(_WHISPER + r"encoder\.conv(1|2)", r"encoder/conv\1", "conv"),
    *_whisper_side("encoder", "block"),
    *_whisper_side("decoder", "blocks_"),
    *_linear(
        _WHISPER + r"decoder\.layers\.(\d+)\.encoder_attn\.",
        r"decoder/blocks_\1/cross/",
        _ATTENTION,
    ),
    Rule(
        _WHISPER + r"decoder\.layers\.(\d+)\.encoder_attn_layer_norm",
        r"decoder/blocks_\1/cross_norm",
        "norm",
    ),
    Rule(_WHISPER + r"decoder\.embed_tokens\.weight", "decoder/embedding/embedding", "tensor"),
)
WHISPER_SKIPS = (Skip(r"proj_out\.weight", "the token embedding once more"),)

SPEECH_RELEASES: dict[str, Release] = {
    "wav2vec2": Release(
        "wav2vec 2.0",
        "Apache-2.0 where Facebook released it, wav2vec2-base-960h for one; others' fine-tunings"
        " have licences of their own",
        "https://huggingface.co/facebook/wav2vec2-base-960h",
        False,
        WAV2VEC2_RULES,
        WAV2VEC2_SKIPS,
    ),
    "whisper": Release(
        "Whisper",
        "MIT in OpenAI's repository, Apache-2.0 or MIT on the hub",
        "https://github.com/openai/whisper",
        False,
        WHISPER_RULES,
        WHISPER_SKIPS,
    ),
}
