// Differentiates the projection of one vector of Gaussians at a time; the steps follow project.py
// backwards. Read bands.h before including anything here.
#include "projection.h"

#include "vector.h"

namespace {

constexpr float kCompensationMin = SPLAT_COMPENSATION_MIN;

// Three components or three rows, each holding one number per Gaussian.
struct Vec3 {
  Floats c[3];
  Floats& operator[](int i) { return c[i]; }
  const Floats& operator[](int i) const { return c[i]; }
};
struct Mat3 {
  Vec3 r[3];
  Vec3& operator[](int i) { return r[i]; }
  const Vec3& operator[](int i) const { return r[i]; }
};

inline Floats dot(const Vec3& a, const Vec3& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
inline Vec3 operator+(const Vec3& a, const Vec3& b) {
  return {a[0] + b[0], a[1] + b[1], a[2] + b[2]};
}
inline Vec3 operator*(Floats s, const Vec3& a) { return {s * a[0], s * a[1], s * a[2]}; }
inline Vec3 times(const Vec3& a, const Vec3& b) {  // Component by component.
  return {a[0] * b[0], a[1] * b[1], a[2] * b[2]};
}
inline Vec3 cross(const Vec3& a, const Vec3& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}
// Row times matrix, and matrix times column.
inline Vec3 operator*(const Vec3& a, const Mat3& m) { return a[0] * m[0] + a[1] * m[1] + a[2] * m[2]; }
inline Vec3 operator*(const Mat3& m, const Vec3& a) { return {dot(m[0], a), dot(m[1], a), dot(m[2], a)}; }

// Which rows of an array the lanes hold; those beyond the end repeat the last one.
struct Lanes {
  size_t first, valid;

  Floats load(const float* array, int width, int component) const {
    Floats x{};
    for (size_t i = 0; i < kLanes; ++i) {
      x[i] = array[(first + (i < valid ? i : valid - 1)) * width + component];
    }
    return x;
  }
  Vec3 load3(const float* array, int width = 3, int component = 0) const {
    return {load(array, width, component), load(array, width, component + 1),
            load(array, width, component + 2)};
  }
  void store(float* array, int width, int component, Floats x) const {
    for (size_t i = 0; i < valid; ++i) array[(first + i) * width + component] = x[i];
  }
  void store3(float* array, const Vec3& x, int width = 3, int component = 0) const {
    for (int i = 0; i < 3; ++i) store(array, width, component + i, x[i]);
  }
  // A cotangent; zero in the lanes beyond the end.
  Floats load_cotangent(const float* array) const {
    Floats x{};
    for (size_t i = 0; i < valid; ++i) x[i] = array[first + i];
    return x;
  }
};

inline Floats magnitude(Floats x) { return larger(x, -x); }

struct Quaternion {
  Floats w, x, y, z, inverse_norm;  // Normalised.

  Mat3 rotation() const {
    return {{{{1.f - 2.f * (y * y + z * z), 2.f * (x * y - w * z), 2.f * (x * z + w * y)}},
             {{2.f * (x * y + w * z), 1.f - 2.f * (x * x + z * z), 2.f * (y * z - w * x)}},
             {{2.f * (x * z - w * y), 2.f * (y * z + w * x), 1.f - 2.f * (x * x + y * y)}}}};
  }
};

inline Quaternion load_quaternion(const Lanes& lanes, const float* quats) {
  const Floats w = lanes.load(quats, 4, 0), x = lanes.load(quats, 4, 1);
  const Floats y = lanes.load(quats, 4, 2), z = lanes.load(quats, 4, 3);
  const Floats squared = w * w + x * x + y * y + z * z;
  const Floats n = 1.f / root(squared > 0.f ? squared : broadcast(1.f));
  return {w * n, x * n, y * n, z * n, n};
}

inline void store_quaternion_gradient(const Lanes& lanes, const Quaternion& q, const Mat3& d,
                                      Ints keep, float* d_quats) {
  const Floats s01 = d[0][1] + d[1][0], s02 = d[0][2] + d[2][0], s12 = d[1][2] + d[2][1];
  const Floats a21 = d[2][1] - d[1][2], a02 = d[0][2] - d[2][0], a10 = d[1][0] - d[0][1];
  const Floats w = 2.f * (q.x * a21 + q.y * a02 + q.z * a10);
  const Floats x = 2.f * (q.w * a21 + q.y * s01 + q.z * s02 - 2.f * q.x * (d[1][1] + d[2][2]));
  const Floats y = 2.f * (q.w * a02 + q.x * s01 + q.z * s12 - 2.f * q.y * (d[0][0] + d[2][2]));
  const Floats z = 2.f * (q.w * a10 + q.x * s02 + q.y * s12 - 2.f * q.z * (d[0][0] + d[1][1]));
  const Floats along = q.w * w + q.x * x + q.y * y + q.z * z;
  const Floats gradient[4] = {w - q.w * along, x - q.x * along, y - q.y * along, z - q.z * along};
  for (int i = 0; i < 4; ++i) {
    lanes.store(d_quats, 4, i, keep ? gradient[i] * q.inverse_norm : Floats{});
  }
}

void differentiate(const Projection& p, const Lanes& lanes, Floats (&camera)[kCameraSums]) {
  const Floats g_x = lanes.load_cotangent(p.x), g_y = lanes.load_cotangent(p.y);
  const Floats g_xx = lanes.load_cotangent(p.conic_xx), g_xy = lanes.load_cotangent(p.conic_xy);
  const Floats g_yy = lanes.load_cotangent(p.conic_yy), g_depth = lanes.load_cotangent(p.depth);
  const Floats g_opacity = lanes.load_cotangent(p.opacity);
  const Ints keep = (magnitude(g_x) + magnitude(g_y) + magnitude(g_xx) + magnitude(g_xy) +
                     magnitude(g_yy) + magnitude(g_depth) + magnitude(g_opacity)) != 0.f;
  const auto kept = [&](Floats x) { return keep ? x : Floats{}; };
  const auto kept3 = [&](const Vec3& x) { return Vec3{{kept(x[0]), kept(x[1]), kept(x[2])}}; };

  // Forward, as in project.py.
  Mat3 view;
  for (int i = 0; i < 9; ++i) view[i / 3][i % 3] = broadcast(p.rotation[i]);
  const Vec3 mean = lanes.load3(p.means), scale = lanes.load3(p.scales);
  Vec3 point = view * mean;
  for (int i = 0; i < 3; ++i) point[i] += p.translation[i];
  const Ints beyond = point[2] > p.near;
  const Floats inverse_z = 1.f / (beyond ? point[2] : broadcast(1.f));
  Vec3 jacobian[2], before_scale[2], row[2];
  Floats ahead[2], slope[2];
  Mat3 linear;
  if (p.linear) {
    for (int i = 0; i < 3; ++i) linear[i] = lanes.load3(p.linear, 9, 3 * i);
  }
  const Quaternion quat = load_quaternion(lanes, p.quats);
  const Mat3 rotation = quat.rotation();
  Vec3 mapped[2];
  for (int i = 0; i < 2; ++i) {
    ahead[i] = point[i] * inverse_z;
    slope[i] = larger(smaller(ahead[i], broadcast(p.slope_high[i])), broadcast(p.slope_low[i]));
    const Floats zoom = p.focal[i] * inverse_z;
    jacobian[i] = zoom * (view[i] + -slope[i] * view[2]);
    mapped[i] = p.linear ? jacobian[i] * linear : jacobian[i];
    before_scale[i] = mapped[i] * rotation;
    row[i] = times(before_scale[i], scale);
  }
  const Vec3 normal = cross(row[0], row[1]);
  const Floats det = dot(normal, normal), xy = dot(row[0], row[1]);
  const Floats xx = dot(row[0], row[0]) + p.low_pass, yy = dot(row[1], row[1]) + p.low_pass;
  const Floats det_blurred = det + p.low_pass * (xx + yy) - p.low_pass * p.low_pass;
  const Floats inverse_det = 1.f / det_blurred;

  // Backward, to the two rows.
  Floats d_blurred = -(g_xx * yy - g_xy * xy + g_yy * xx) * inverse_det * inverse_det, d_det{};
  Floats d_opacity = g_opacity;
  if (p.antialias) {
    const Floats ratio = det * inverse_det;
    const Floats compensation = root(larger(ratio, broadcast(kCompensationMin)));
    d_opacity = g_opacity * compensation;
    Floats d_ratio = g_opacity * lanes.load(p.opacities, 1, 0) * 0.5f / compensation;
    d_ratio = ratio > kCompensationMin ? d_ratio : Floats{};
    d_det = d_ratio * inverse_det;
    d_blurred -= d_ratio * ratio * inverse_det;
  }
  d_det += d_blurred;
  const Floats d_xx = g_yy * inverse_det + p.low_pass * d_blurred;
  const Floats d_yy = g_xx * inverse_det + p.low_pass * d_blurred;
  const Floats d_xy = -g_xy * inverse_det;
  const Vec3 d_row[2] = {
      2.f * d_xx * row[0] + d_xy * row[1] + 2.f * d_det * cross(row[1], normal),
      2.f * d_yy * row[1] + d_xy * row[0] + 2.f * d_det * cross(normal, row[0])};

  // Through scales, rotation and map, to the Jacobian of the view.
  lanes.store(p.d_opacities, 1, 0, kept(d_opacity));
  const Vec3 d_scale = times(d_row[0], before_scale[0]) + times(d_row[1], before_scale[1]);
  lanes.store3(p.d_scales, kept3(d_scale));
  const Vec3 d_rotated[2] = {times(d_row[0], scale), times(d_row[1], scale)};
  Mat3 d_rotation;
  for (int k = 0; k < 3; ++k) {
    d_rotation[k] = mapped[0][k] * d_rotated[0] + mapped[1][k] * d_rotated[1];
  }
  store_quaternion_gradient(lanes, quat, d_rotation, keep, p.d_quats);
  Vec3 d_jacobian[2] = {rotation * d_rotated[0], rotation * d_rotated[1]};
  if (p.linear) {
    for (int k = 0; k < 3; ++k) {
      const Vec3 d = jacobian[0][k] * d_jacobian[0] + jacobian[1][k] * d_jacobian[1];
      lanes.store3(p.d_linear, kept3(d), 9, 3 * k);
    }
    for (Vec3& d : d_jacobian) d = linear * d;
  }

  // Through perspective, to the point in the camera's frame and the camera.
  const Floats g_centre[2] = {g_x, g_y};
  Vec3 d_point{}, d_view[3] = {};
  Floats d_inverse_z{};
  for (int i = 0; i < 2; ++i) {
    const Floats zoom = p.focal[i] * inverse_z;
    const Floats d_zoom = dot(d_jacobian[i], view[i] + -slope[i] * view[2]);
    const Floats d_slope = -zoom * dot(d_jacobian[i], view[2]);
    d_view[i] = zoom * d_jacobian[i];
    d_view[2] = d_view[2] + (-zoom * slope[i]) * d_jacobian[i];
    const Floats bound = kept(ahead[i] == slope[i] ? Floats{} : d_slope) / p.focal[i];
    const Floats d_ahead = g_centre[i] * p.focal[i] + (ahead[i] == slope[i] ? d_slope : Floats{});
    camera[12 + i] += kept(g_centre[i] * ahead[i] + d_zoom * inverse_z) - bound * slope[i];
    camera[14 + i] += kept(g_centre[i]) - bound;
    d_point[i] = d_ahead * inverse_z;
    d_inverse_z += d_ahead * point[i] + d_zoom * p.focal[i];
  }
  d_point[2] = (beyond ? -d_inverse_z * inverse_z * inverse_z : Floats{}) + g_depth;
  for (int i = 0; i < 3; ++i) {
    const Vec3 d = kept3(d_view[i] + d_point[i] * mean);
    for (int j = 0; j < 3; ++j) camera[3 * i + j] += d[j];
    camera[9 + i] += kept(d_point[i]);
  }
  lanes.store3(p.d_means, kept3(d_point * view));
}

}  // namespace

#ifdef __AVX2__
void project_backward_avx2(
#else
void project_backward_baseline(
#endif
    const Projection& p, size_t begin, size_t end, float* camera_sums) {
  Floats camera[kCameraSums] = {};
  for (size_t i = begin; i < end; i += kLanes) {
    const size_t left = end - i;
    differentiate(p, {i, left < kLanes ? left : kLanes}, camera);
  }
  for (int i = 0; i < kCameraSums; ++i) camera_sums[i] = sum(camera[i]);
}
