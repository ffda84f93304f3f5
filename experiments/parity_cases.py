"""What reproduces each recording of LHM's modules, and with which of our functions.

A case takes a recording's weights (under their original names), inputs and configuration, and
returns the outputs by their recorded names. Weights enter through the tables that import released
checkpoints, so every name of those tables is exercised as well.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from pallas_splat import Camera, Config, Gaussians, sh_colors
from pallas_splat.project import project, rotations

from jaxavatar.body import (
    load_smplx,
    local_transforms,
    pose_vertices,
    posed_joints,
    shaped,
    skinning_transforms,
)
from jaxavatar.losses import as_close, as_spherical
from jaxavatar.reconstruction.transformer import blocks, embedding, gaussians, norms
from jaxavatar.reconstruction.transformer.camera import camera_from_lhm
from jaxavatar.reconstruction.transformer.canonical import query_points, to_rest
from jaxavatar.reconstruction.transformer.config import DinoConfig
from jaxavatar.reconstruction.transformer.dinov2 import DinoV2
from jaxavatar.reconstruction.transformer.photo_crop import crop_person, person_box
from jaxavatar.structs import BodyPose
from jaxavatar.weights.lhm_import import arrange_released

Arrays = Mapping[str, Any]
Outputs = dict[str, Any]
BODY_TOKENS = 4096  # of LHM, whatever the width


@dataclasses.dataclass(frozen=True)
class Case:
    """How a recording is reproduced.

    Attributes:
        function: what is compared, for the reader.
        run: weights, inputs and configuration to outputs.
        atol: absolute tolerance in float32, next to a relative one of 1e-4.
        only32: whether the function is computed on the host or in float32 alone.
        drawn: recorded output of which only rows above zero count, in all outputs.
    """

    function: str
    run: Callable[[Arrays, Arrays, Mapping[str, Any]], Outputs]
    atol: float = 2e-5
    only32: bool = False
    drawn: str | None = None


def variables(
    tensors: Arrays, names: str, path: str, module: nn.Module, *inputs: Any, kind: str = "lhm"
) -> dict[str, Any]:
    """Arrange weights of original names as a module's variables.

    Args:
        tensors: by name inside the module.
        names: what precedes them in a whole checkpoint.
        path: what precedes the parameters in the whole model.
        module: whose variables they become.
        *inputs: of the module.
        kind: of checkpoint, see `lhm_import`.

    Raises:
        ValueError: a tensor is not used, or a parameter is missing.
    """
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(shapes, sep="/")
    expected = {f"{path}{name}": leaf.shape for name, leaf in flat.items()}
    whole = {f"{names}{name}": tensor for name, tensor in tensors.items()}
    params, report = arrange_released(whole, kind, expected)
    if report.unknown or report.missing:
        raise ValueError(f"not used: {report.unknown}; missing: {report.missing}")
    for part in filter(None, path.split("/")):
        params = params[part]
    return {"params": jax.tree.map(jnp.asarray, params)}


def _apply(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Apply a module that returns no changed variables, compiled."""
    return jax.jit(lambda *given: module.apply(*given, **options))(*arguments)


def _rms_norm(w: Arrays, x: Arrays, _: Any) -> Outputs:
    return {"y": _apply(norms.RMSNorm(), {"params": {"scale": w["weight"]}}, x["x"])}


def _modulated(w: Arrays, x: Arrays, parts: int) -> list[Any]:
    params = {"linear": {"kernel": w["linear.weight"].T, "bias": w["linear.bias"]}}
    return _apply(norms.Modulation(parts), {"params": params}, x["temb"])


def _norm_zero(w: Arrays, x: Arrays, _: Any) -> Outputs:
    shift, scale, *others = _modulated(w, x, 6)
    names = ("gate_msa", "shift_mlp", "scale_mlp", "gate_mlp")
    y = norms.modulate(norms.normalise(x["x"]), shift, scale)
    return {"x_norm": y, **dict(zip(names, others, strict=True))}


def _norm_continuous(w: Arrays, x: Arrays, _: Any) -> Outputs:
    scale, shift = _modulated(w, x, 2)
    return {"x_norm": norms.modulate(norms.normalise(x["x"]), shift, scale)}


_LAYER = ("transformer.layers.0.", "transformer/block0/")


def _feed_forward(w: Arrays, x: Arrays, _: Any) -> Outputs:
    module = blocks.FeedForward()
    names, path = f"{_LAYER[0]}body_dit.ff.", f"{_LAYER[1]}body/feed_forward/"
    return {"y": _apply(module, variables(w, names, path, module, x["x"]), x["x"])}


def _streams(x: Arrays) -> list[Any]:
    return [x[name] for name in ("hidden_states", "encoder_hidden_states", "temb")]


def _joint_block(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    last = config["context_pre_only"]
    module = blocks.JointBlock(config["num_heads"], last)
    names, path = f"{_LAYER[0]}body_dit.", f"{_LAYER[1]}body/"
    y, context = _apply(module, variables(w, names, path, module, *_streams(x)), *_streams(x))
    made = {"hidden_states": y}
    return made if last else made | {"encoder_hidden_states": context}


def _body_head_block(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    module = blocks.BodyHeadBlock(config["num_heads"], BODY_TOKENS, config["context_pre_only"])
    y, context = _apply(module, variables(w, *_LAYER, module, *_streams(x)), *_streams(x))
    return {"hidden_states": y, "encoder_hidden_states": context}


def _transformer(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    module = blocks.BodyHeadTransformer(config["num_layers"], config["num_heads"], BODY_TOKENS)
    inputs = [x[name] for name in ("x", "cond", "temb")]
    given = variables(w, "transformer.", "transformer/", module, *inputs)
    y, state = _apply(module, given, *inputs, capture_intermediates=True)
    inside: Any = state["intermediates"]
    made: Outputs = {"y": y}
    for layer in range(config["num_layers"]):
        hidden, context = inside[f"block{layer}"]["__call__"][0]
        made |= {f"layer{layer}_hidden": hidden, f"layer{layer}_context_first64": context[:, :64]}
    return made


def _point_embedding(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    module = embedding.PointEmbedding(config["dim"])
    given = variables(w, "pcl_embed.", "point_embedding/", module, x["points"])
    fourier = embedding.fourier(x["points"])
    return {"embed": _apply(module, given, x["points"]), "fourier": fourier}


def _global_code(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    module = embedding.GlobalCode(config["pcl_dim"])
    given = variables(w, "motion_embed_mlp.", "global_code/", module, x["body_feats"])
    return {
        "motion_embed": _apply(module, given, x["body_feats"]),
        "merged_tokens": embedding.merge(x["body_feats"], x["head_feats"]),
    }


def _dinov2(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    registers = config["registers"]
    module = DinoV2(
        DinoConfig(
            patch=config["patch"],
            width=config["embed_dim"],
            depth=config["depth"],
            heads=config["heads"],
            registers=registers,
            grid=config["img_size"] // config["patch"],
            taken=tuple(config["take"]),
        )
    )
    image = jnp.transpose(x["image"], (0, 2, 3, 1))
    given = variables(w, "", "head_encoder/dino/", module, image, kind="dinov2")
    depths = _apply(module, given, image)
    made = {"tokens_after_embed": _apply(module, given, image, method="embed")}
    for k, tokens in enumerate(depths):
        made |= {f"cls{k}": tokens[:, 0], f"feat{k}": tokens[:, 1 + registers :]}
    places: Any = module.apply(given, 32, 32, method="places")
    made["pos_embed_448"] = places[None]
    made["x_norm_clstoken"] = depths[-1][:, 0]
    made["x_norm_regtokens"] = depths[-1][:, 1 : 1 + registers]
    made["x_norm_patchtokens"] = depths[-1][:, 1 + registers :]
    return made


def _decoder(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    module = gaussians.DecoderNetwork(config["n_neurons"])
    given = variables(w, "renderer.mlp_net.", "decoder/", module, x["x"])
    return {"y": _apply(module, given, x["x"])}


def _gaussian_layer(w: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    module = gaussians.GaussianLayer(None if config["use_rgb"] else config["sh_degree"])
    w = {name: tensor for name, tensor in w.items() if not name.startswith("init/")}
    features, points = x["x"][None], x["pts"][None]
    given = variables(w, "renderer.gs_net.", "gaussians/", module, features, points)
    clip = gaussians.scale_clip(config["hyper_step"])
    made = _apply(module, given, features, points, clip, x.get("is_upper_body"))
    return {
        "offset_xyz": made.offsets[0],
        "opacity": made.opacities[0, :, None],
        "rotation": made.quats[0],
        "scaling": made.scales[0],
        "shs": made.colors[0].reshape(len(x["x"]), -1, 3),
    }


def _clip_schedule(_: Arrays, x: Arrays, __: Any) -> Outputs:
    return {"value": jnp.stack([gaussians.scale_clip(int(step)) for step in x["step"]])}


def _bounded_exp(_: Arrays, x: Arrays, __: Any) -> Outputs:
    slopes = jax.vmap(jax.grad(gaussians.bounded_exp))(x["x"])
    return {"y": gaussians.bounded_exp(x["x"]), "dydx": slopes}


def _rodrigues(_: Arrays, x: Arrays, __: Any) -> Outputs:
    local = local_transforms(x["rot_vecs"], jnp.zeros(3, x["rot_vecs"].dtype))
    return {"R": local.rotation().as_matrix()}


def _chain(w: Arrays, x: Arrays, _: Any) -> Outputs:
    parents = [int(p) for p in w["parents"]]
    body = _smplx(w)
    made: dict[str, list[Any]] = {}
    last = jnp.array([0, 0, 0, 1], x["joints"].dtype)
    for joints, matrices, betas in zip(x["joints"], x["rot_mats"], x["betas"], strict=True):
        local = jaxlie.SE3.from_rotation(jaxlie.SO3.from_matrix(matrices))
        relative = skinning_transforms(joints, local, parents)
        row = jnp.broadcast_to(last, (len(parents), 1, 4))
        vertices, rest = shaped(body, betas=betas)
        for name, value in (
            ("posed_joints", posed_joints(joints, local, parents)),
            ("rel_transforms", jnp.concatenate([relative, row], 1)),
            ("blend_shapes", vertices - body.vertices),
            ("rest_joints", rest),
        ):
            made.setdefault(name, []).append(value)
    return {name: jnp.stack(values) for name, values in made.items()}


def _smplx(w: Arrays) -> Any:
    """Write the recording's body as a model file and read it back; what it lacks is zero.

    Such files are read as float32; in float64 the recorded arrays take their places.
    """
    v = {name: np.asarray(w[name]) for name in w}
    n, joints = len(v["v_template"]), len(v["parents"])
    directions = v["shapedirs"]
    kintree = np.stack([v["parents"] % 2**32, np.arange(joints)]).astype(np.uint32)
    dirs = v.get("posedirs", np.zeros((9 * (joints - 1), 3 * n)))
    weights = v.get("lbs_weights", np.full((n, joints), 1 / joints))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        np.savez(
            path,
            v_template=v["v_template"],
            shapedirs=np.pad(directions, ((0, 0), (0, 0), (0, 400 - directions.shape[2]))),
            posedirs=dirs.T.reshape(n, 3, -1),
            J_regressor=v["J_regressor"],
            weights=weights,
            kintree_table=kintree,
            f=np.zeros((1, 3), np.uint32),
            hands_meanl=np.zeros(45),
            hands_meanr=np.zeros(45),
        )
        body = load_smplx(path, n_betas=directions.shape[2])
    if v["v_template"].dtype != np.float64:
        return body
    betas = np.moveaxis(directions, 2, 0)
    exact = {
        "vertices": v["v_template"],
        "joints": v["J_regressor"] @ v["v_template"],
        "weights": weights,
        "betas": betas,
        "beta_joints": v["J_regressor"] @ betas,
        "pose_dirs": dirs.reshape(-1, n, 3),
    }
    return dataclasses.replace(body, **{name: jnp.asarray(x) for name, x in exact.items()})


def _skinned_body(w: Arrays, x: Arrays, _: Any) -> Outputs:
    body, faced = _smplx(w), _smplx({**w, "v_template": w["v_template"] + x["face_offset"][0]})
    made: dict[str, list[Any]] = {}
    for b in range(len(x["betas"])):
        vertices, joints = shaped(body, betas=x["betas"][b])
        face, moved = shaped(faced, betas=x["betas"][b])
        moved = moved + x["joint_offset"][b]
        pose = BodyPose(x["pose"][b].reshape(-1, 3), jnp.zeros(3), jnp.zeros(10))
        local = local_transforms(pose.rotations, pose.translation)
        reported = moved + x["locator_offset"][b]
        for name, value in (
            ("verts", pose_vertices(body, vertices, joints, pose)),
            ("joints", posed_joints(joints, local, body.parents)),
            ("verts_with_offsets", pose_vertices(faced, face, moved, pose)),
            ("joints_with_offsets", posed_joints(reported, local, body.parents)),
        ):
            made.setdefault(name, []).append(value)
    return {name: jnp.stack(values) for name, values in made.items()}


def _query_points(w: Arrays, _: Arrays, __: Any) -> Outputs:
    parents, joints = [int(p) for p in w["parents"]], w["J_template"]
    points = query_points(w["dense_pts"], w["skinning_weight"], joints, parents)
    back = to_rest(joints, parents)
    last = jnp.broadcast_to(jnp.array([0, 0, 0, 1], back.dtype), (len(parents), 1, 4))
    matrices = jnp.concatenate([back, last], axis=1)
    return {"query_points": points[None], "transform_mat_neutral_pose": matrices[None]}


def _photo_crop(_: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    matte = np.asarray(x["mask"]) / 255
    size, side = config["render_tgt_size"], config["max_tgt_size"]
    picture, cut = crop_person(np.asarray(x["image"]), matte, size, longer_side=side)
    left, top, right, bottom = person_box(matte > 0.5)
    return {
        "rgb": picture.transpose(2, 0, 1)[None],
        "mask": cut[None, None],
        "bbox_xyxy": np.array([left, top, right, bottom]),
    }


def _groups(x: Arrays) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("idx_"): np.asarray(rows)
        for name, rows in x.items()
        if name.startswith("idx_")
    }


def _as_close(_: Arrays, x: Arrays, __: Any) -> Outputs:
    return {
        "loss_heuristic": as_close(x["offset"], _groups(x)),
        "loss_plain": as_close(x["offset"]),
    }


def _as_spherical(_: Arrays, x: Arrays, __: Any) -> Outputs:
    return {"loss": as_spherical(x["scaling"], _groups(x))}


def _camera(_: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    """Return what 3D Gaussian Splatting keeps of a camera; its matrices multiply from the left."""
    camera = camera_from_lhm(x["c2w"], x["intrinsic"], config["height"], config["width"])
    near, far = config["znear"], config["zfar"]
    view = camera.viewmat.T
    across, down = 2 * camera.K[0, 0] / camera.width, 2 * camera.K[1, 1] / camera.height
    projection = jnp.zeros((4, 4), view.dtype)
    projection = projection.at[0, 0].set(across).at[1, 1].set(down).at[2, 3].set(1)
    projection = projection.at[2:, 2].set(jnp.array([far, -far * near]) / (far - near))
    whole = jnp.matmul(view, projection, precision="highest")
    return {
        "fovx": 2 * jnp.arctan(1 / across),
        "fovy": 2 * jnp.arctan(1 / down),
        "world_view_transform": view,
        "projection_matrix": projection,
        "full_proj_transform": whole,
        "camera_center": jnp.linalg.inv(view)[3, :3],
    }


def _covariance(_: Arrays, x: Arrays, __: Any) -> Outputs:
    turn = jnp.stack([jnp.stack(row, -1) for row in rotations(x["quats_wxyz"])], -2)
    axes = turn * x["scales"][:, None]
    return {"covar": jnp.einsum("nab,ncb->nac", axes, axes, precision="highest")}


def _projection(_: Arrays, x: Arrays, config: Mapping[str, Any]) -> Outputs:
    """Project; a covariance enters as a root of it, the map of a round Gaussian.

    The recorded radii, whole pixels, tell what is drawn; what we do not draw is NaN.
    """
    count = len(x["means"])
    ones = jnp.ones(count, x["means"].dtype)
    round_ones = Gaussians(
        means=x["means"],
        quats=jnp.tile(jnp.array([1, 0, 0, 0], ones.dtype), (count, 1)),
        scales=jnp.ones((count, 3), ones.dtype),
        opacities=ones,
        colors=jnp.ones((count, 3), ones.dtype),
        linear=jnp.linalg.cholesky(x["covars"]),
    )
    camera = Camera(x["viewmat"], x["K"], config["W"], config["H"], near=config["near"])
    seen = project(round_ones, camera, Config(low_pass=config["eps2d"]))
    drawn = seen.visible & (seen.depth < config["far"])

    def rows(*columns: Any) -> jax.Array:
        return jnp.where(drawn[:, None], jnp.stack(columns, -1), jnp.nan)

    return {
        "means2d": rows(seen.x, seen.y),
        "depths": rows(seen.depth)[:, 0],
        "conics": rows(seen.conic_xx, seen.conic_xy, seen.conic_yy),
    }


def _harmonics(_: Arrays, x: Arrays, __: Any) -> Outputs:
    degrees = range(4)
    return {f"deg{d}": sh_colors(x["coeffs"][:, : (d + 1) ** 2], x["dirs"]) for d in degrees}


_NETWORK, _POINTS = 1e-4, 5e-5
CASES: dict[str, Case] = {
    "rms_norm": Case("transformer.norms.RMSNorm", _rms_norm),
    "ada_layer_norm_zero": Case("transformer.norms.Modulation, modulate", _norm_zero),
    "ada_layer_norm_continuous": Case("transformer.norms.Modulation, modulate", _norm_continuous),
    "feed_forward": Case("transformer.blocks.FeedForward", _feed_forward),
    "mm_block": Case("transformer.blocks.JointBlock", _joint_block),
    "bh_block": Case("transformer.blocks.BodyHeadBlock", _body_head_block),
    "transformer_decoder": Case(
        "transformer.blocks.BodyHeadTransformer", _transformer, atol=_NETWORK
    ),
    "point_embed": Case("transformer.embedding.PointEmbedding", _point_embedding, atol=_POINTS),
    "motion_embed": Case("transformer.embedding.GlobalCode, merge", _global_code),
    "dinov2": Case("transformer.dinov2.DinoV2", _dinov2, atol=_NETWORK),
    "gs_mlp_net": Case("transformer.gaussians.DecoderNetwork", _decoder),
    "gs_layer": Case("transformer.gaussians.GaussianLayer", _gaussian_layer),
    "linear_parameter_tuner": Case("transformer.gaussians.scale_clip", _clip_schedule),
    "trunc_exp": Case("transformer.gaussians.bounded_exp", _bounded_exp),
    "batch_rodrigues": Case("body.local_transforms", _rodrigues),
    "batch_rigid_transform": Case("body.skinning_transforms, posed_joints, shaped", _chain),
    "lbs": Case("body.load_smplx, shaped, pose_vertices", _skinned_body),
    "query_points": Case("transformer.canonical.query_points, to_rest", _query_points),
    "preprocess_image_full": Case(
        # Colours are recorded in float16.
        "transformer.photo_crop.crop_person",
        _photo_crop,
        atol=5e-4,
        only32=True,
    ),
    "loss_acap": Case("losses.as_close", _as_close),
    "loss_asap": Case("losses.as_spherical", _as_spherical),
    "camera": Case("transformer.camera.camera_from_lhm", _camera),
    "covariance": Case("pallas_splat.project.rotations", _covariance),
    "projection": Case("pallas_splat.project", _projection, drawn="radii"),
    "spherical_harmonics": Case("pallas_splat.sh_colors", _harmonics),
}


def find(name: str) -> Case | None:
    """Return the case of a recording: the longest name of a case that begins its name."""
    known = [prefix for prefix in CASES if name == prefix or name.startswith(f"{prefix}_")]
    return CASES[max(known, key=len)] if known else None
