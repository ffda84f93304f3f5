"""LHM's networks in NumPy float64, on tensors under the names of its checkpoints.

Written from the published equations, one token or one head at a time where that is plainer, and
sharing nothing with the package.
"""

import math

import numpy as np


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def norm(x, eps=1e-6):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def affine_norm(w, name, x, eps=1e-6):
    return norm(x, eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms(weight, x, eps=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def attention(q, k, v, heads):
    """Attend with [n, d] and [m, d] tensors, one head after the other."""
    width = q.shape[-1] // heads
    out = np.empty_like(q)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
    return out


def part(w, prefix):
    return {key[len(prefix) :]: value for key, value in w.items() if key.startswith(prefix)}


def joint_block(w, x, context, code, heads, last, hands=None):
    """One SD3-style block of one example; `hands` are further (keys, values), keys unnormalised."""
    shift, scale, gate, shift2, scale2, gate2 = np.split(linear(w, "norm1.linear", silu(code)), 6)
    vectors = np.split(linear(w, "norm1_context.linear", silu(code)), 2 if last else 6)
    c_scale, c_shift = (vectors[0], vectors[1]) if last else (vectors[1], vectors[0])
    a = norm(x) * (1 + scale) + shift
    b = norm(context) * (1 + c_scale) + c_shift

    def head_rms(name, y):
        return rms(w[name], y.reshape(len(y), heads, -1)).reshape(y.shape)

    q = [
        head_rms("attn.norm_q.weight", linear(w, "attn.to_q", a)),
        head_rms("attn.norm_added_q.weight", linear(w, "attn.add_q_proj", b)),
    ]
    k = [
        head_rms("attn.norm_k.weight", linear(w, "attn.to_k", a)),
        head_rms("attn.norm_added_k.weight", linear(w, "attn.add_k_proj", b)),
    ]
    v = [linear(w, "attn.to_v", a), linear(w, "attn.add_v_proj", b)]
    if hands is not None:
        k.append(head_rms("hand_key_norm", hands[0]))
        v.append(hands[1])
    out = attention(np.concatenate(q), np.concatenate(k), np.concatenate(v), heads)
    x = x + gate * linear(w, "attn.to_out.0", out[: len(x)])
    late = norm(x) * (1 + scale2) + shift2
    x = x + gate2 * linear(w, "ff.net.2", gelu_tanh(linear(w, "ff.net.0.proj", late)))
    if last:
        return x, context
    _, _, c_gate, c_shift2, c_scale2, c_gate2 = vectors
    context = context + c_gate * linear(w, "attn.to_add_out", out[len(x) :])
    late = norm(context) * (1 + c_scale2) + c_shift2
    late = linear(w, "ff_context.net.2", gelu_tanh(linear(w, "ff_context.net.0.proj", late)))
    return x, context + late + c_gate2 * late


def transformer(w, x, context, code, heads, body_tokens, layers):
    """The whole stack for one example."""
    context = linear(w, "linear_cond_proj", context)
    body_code, head_code = np.split(code, 2)
    split = 3 * len(x) // 4
    for layer in range(layers):
        block, last = part(w, f"layers.{layer}."), layer == layers - 1
        body, head = context[:body_tokens], context[body_tokens:]
        head_x, head = joint_block(
            part(block, "head_dit."), x[split:], head, head_code, heads, last
        )
        x = np.concatenate([x[:split], head_x])
        x, body = joint_block(part(block, "body_dit."), x, body, body_code, heads, last)
        context = np.concatenate([body, head])
    return affine_norm(w, "norm", x)


def point_embedding(w, points):
    rows = []
    for p in points:
        angles = [p[axis] * math.pi * 2**k for axis in range(3) for k in range(8)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles] + list(p))
    return affine_norm(w, "norm", linear(w, "mlp", np.array(rows)), 1e-5)


def vit_block(w, x, heads):
    q, k, v = np.split(linear(w, "attn.qkv", affine_norm(w, "norm1", x)), 3, axis=-1)
    x = x + w.get("ls1.gamma", 1.0) * linear(w, "attn.proj", attention(q, k, v, heads))
    hidden = gelu_exact(linear(w, "mlp.fc1", affine_norm(w, "norm2", x)))
    return x + w.get("ls2.gamma", 1.0) * linear(w, "mlp.fc2", hidden)


def patches(weight, bias, image, size, padding=0):
    """Multiply every patch of an [H, W, 3] image with a [out, 3, size, size] kernel."""
    image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n - size) // size + 1 for n in image.shape[:2])
    out = []
    for r in range(rows):
        for c in range(columns):
            cut = image[r * size : (r + 1) * size, c * size : (c + 1) * size]
            out.append(np.einsum("hwi,oihw->o", cut, weight) + bias)
    return np.array(out)


def head_encoder(w, image, size, heads):
    """DINOv2 with registers at the size of its positions, all its blocks fused."""
    dino, fusion = part(w, "model."), part(w, "fusion_head.")
    cut = patches(dino["patch_embed.proj.weight"], dino["patch_embed.proj.bias"], image, size)
    x = np.concatenate([dino["cls_token"][0], cut]) + dino["pos_embed"][0]
    registers = dino["register_tokens"][0]
    x = np.concatenate([x[:1], registers, x[1:]])
    depths, layer = [], 0
    while block := part(dino, f"blocks.{layer}."):
        x = vit_block(block, x, heads)
        tokens = affine_norm(dino, "norm", x)[1 + len(registers) :]
        kernel = fusion[f"projects.{layer}.weight"][:, :, 0, 0]
        depths.append(tokens @ kernel.T + fusion[f"projects.{layer}.bias"])
        layer += 1
    kernel = fusion["output_conv.weight"][:, :, 0, 0]
    return np.concatenate(depths, axis=1) @ kernel.T + fusion["output_conv.bias"]


def random_weights(rng, shapes):
    """Random tensors of given shapes, of a size at which activations stay of order 1."""
    return {
        name: rng.normal(size=shape) * (0.3 if len(shape) < 2 else 0.7 / math.sqrt(shape[-1]))
        + (1.0 if name.endswith(("norm_q.weight", "norm_k.weight")) else 0.0)
        for name, shape in shapes.items()
    }


def decoder(w, x):
    """`renderer.mlp_net` and `renderer.gs_net` for RGB: offsets, scales, quaternions and so on."""
    h = silu(linear(w, "mlp_net.layers.0", x))
    h = silu(linear(w, "mlp_net.layers.2", h))
    h = linear(w, "mlp_net.layers.4", h)
    raw = {
        name: linear(w, f"gs_net.out_layers.{name}", h)
        for name in ("shs", "scaling", "xyz", "opacity", "rotation")
    }
    sigmoid = {name: 1 / (1 + np.exp(-value)) for name, value in raw.items()}
    return {
        "offsets": sigmoid["xyz"] - 0.5,
        "scales": np.minimum(np.exp(raw["scaling"]), 0.05),
        "quats": raw["rotation"] / np.linalg.norm(raw["rotation"], axis=1, keepdims=True),
        "opacities": sigmoid["opacity"][:, 0],
        "colors": sigmoid["shs"],
    }


def global_code(w, body):
    return linear(w, "motion_embed_mlp.2", silu(linear(w, "motion_embed_mlp.0", body.mean(0))))


def reconstruct(w, points, body, head, heads, layers, upper):
    """The whole way of one photo's tokens to canonical Gaussians, under a checkpoint's names."""
    head = np.pad(head, ((0, 0), (0, body.shape[1] - head.shape[1])))
    x = point_embedding(part(w, "pcl_embed."), points)
    context, code = np.concatenate([body, head]), global_code(w, body)
    x = transformer(part(w, "transformer."), x, context, code, heads, len(body), layers)
    made = decoder(part(w, "renderer."), x)
    made["scales"][upper] = np.minimum(made["scales"][upper], 0.02)
    return made | {"means": points + made["offsets"]}


def rotation(vector):
    """Rodrigues' formula."""
    angle = np.linalg.norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def chain(rotations, joints, parents):
    """Return each joint's 4 x 4 transform from rest to pose, and where the joints stand."""
    world, relative = [], []
    for m, parent in enumerate(parents):
        step = np.eye(4)
        step[:3, :3] = rotation(rotations[m])
        step[:3, 3] = joints[m] - (joints[parent] if parent >= 0 else 0)
        world.append(world[parent] @ step if parent >= 0 else step)
        back = np.eye(4)
        back[:3, 3] = -joints[m]
        relative.append(world[m] @ back)
    return np.array(relative), np.array([frame[:3, 3] for frame in world])


def canonical_pose():
    """Local rotations of the pose in which the transformer works: the legs 20 degrees apart."""
    rotations = np.zeros((55, 3))
    rotations[1, 2], rotations[2, 2] = np.float32(np.pi / 9), -np.float32(np.pi / 9)
    return rotations


def read_quaternion(m):
    """Read a quaternion off a matrix by its largest component, one `if` at a time."""
    squares = [
        1 + m[0, 0] + m[1, 1] + m[2, 2],
        1 + m[0, 0] - m[1, 1] - m[2, 2],
        1 - m[0, 0] + m[1, 1] - m[2, 2],
        1 - m[0, 0] - m[1, 1] + m[2, 2],
    ]
    largest = squares.index(max(squares))
    half = math.sqrt(squares[largest])
    x, y, z = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[1, 0] + m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    if largest == 0:
        q = [half**2, x, y, z]
    elif largest == 1:
        q = [x, half**2, xy, xz]
    elif largest == 2:
        q = [y, xy, half**2, yz]
    else:
        q = [z, xz, yz, half**2]
    return np.array(q) / np.linalg.norm(q)


def multiply(a, b):
    """The product of two quaternions, through scalar and vector parts."""
    vector = a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
    return np.array([a[0] * b[0] - a[1:] @ b[1:], *vector])


def animate(body, means, quats, rotations, translation, betas, expression):
    """LHM's animation of one frame, point by point, with 4 x 4 matrices.

    `body` holds weights, shape_dirs, expr_dirs, constrain, joints, joint_dirs and parents.
    """
    _, placed = chain(canonical_pose(), body["joints"], body["parents"])
    back, _ = chain(-canonical_pose(), placed, body["parents"])
    joints = body["joints"] + body["joint_dirs"] @ betas
    forth, _ = chain(rotations, joints, body["parents"])
    moved, turned = [], []
    for n, point in enumerate(means):
        first, second = np.zeros((4, 4)), np.zeros((4, 4))
        for m, weight in enumerate(body["weights"][n]):
            first, second = first + weight * back[m], second + weight * forth[m]
        x = first @ [*(point + body["expr_dirs"][n] @ expression), 1.0]
        x[:3] += body["shape_dirs"][n] @ betas
        moved.append((second @ x)[:3] + translation)
        turn = read_quaternion((second @ first)[:3, :3])
        if body["constrain"][n]:
            turn = np.array([1.0, 0, 0, 0])
        q = multiply(turn, quats[n])
        turned.append(-q if q[0] < 0 else q)
    return np.array(moved), np.array(turned)
