// The operation that XLA calls for the VJP of the projection. Leading dimensions beyond those of
// one view are batch dimensions.
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "projection.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

namespace {

constexpr size_t kPiece = 4096;  // Gaussians per parallel job.
constexpr float kFrustumMargin = SPLAT_FRUSTUM_MARGIN;

ProjectBackward* kernel() {
#ifdef SPLAT_WITH_AVX
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2) return project_backward_avx2;
#endif
  return project_backward_baseline;
}

void set_camera(Projection& p, const float* viewmat, const float* K, const float (&size)[2]) {
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) p.rotation[3 * i + j] = viewmat[4 * i + j];
    p.translation[i] = viewmat[4 * i + 3];
  }
  for (int i = 0; i < 2; ++i) {
    p.focal[i] = K[4 * i];
    p.centre[i] = K[3 * i + 2];
    const float margin = kFrustumMargin * size[i];
    p.slope_low[i] = (-p.centre[i] - margin) / p.focal[i];
    p.slope_high[i] = (size[i] - p.centre[i] + margin) / p.focal[i];
  }
}

// Runs pieces in parallel and adds up what they have for the camera in the order of the pieces.
void differentiate(const Projection& p, Team& team, float* d_viewmat, float* d_K) {
  const size_t pieces = (p.count + kPiece - 1) / kPiece;
  std::vector<float> sums(pieces * kCameraSums);
  team.run(pieces, [&](size_t i) {
    kernel()(p, i * kPiece, std::min((i + 1) * kPiece, p.count), &sums[i * kCameraSums]);
  });
  float total[kCameraSums] = {};
  for (size_t i = 0; i < sums.size(); ++i) total[i % kCameraSums] += sums[i];
  std::fill_n(d_viewmat, 16, 0.f);
  std::fill_n(d_K, 9, 0.f);
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) d_viewmat[4 * i + j] = total[3 * i + j];
    d_viewmat[4 * i + 3] = total[9 + i];
  }
  for (int i = 0; i < 2; ++i) {
    d_K[4 * i] = total[12 + i];
    d_K[3 * i + 2] = total[14 + i];
  }
}

ffi::Error backward(ffi::ThreadPool pool, Array means, Array quats, Array scales, Array opacities,
                    Array linear, Array viewmat, Array K, Array x, Array y, Array conic_xx,
                    Array conic_xy, Array conic_yy, Array opacity, Array depth, int64_t width,
                    int64_t height, float near, float low_pass, bool antialias, int64_t threads,
                    Out d_means, Out d_quats, Out d_scales, Out d_opacities, Out d_linear,
                    Out d_viewmat, Out d_K) {
  const float size[2] = {static_cast<float>(width), static_cast<float>(height)};
  const size_t count = opacities.dimensions().back(), views = viewmat.element_count() / 16;
  try {
    Team team(pool, threads);
    for (size_t view = 0; view < views; ++view) {
      const size_t at = view * count;
      Projection p{};
      p.count = count;
      p.near = near;
      p.low_pass = low_pass;
      p.antialias = antialias;
      p.means = means.typed_data() + 3 * at;
      p.quats = quats.typed_data() + 4 * at;
      p.scales = scales.typed_data() + 3 * at;
      p.opacities = opacities.typed_data() + at;
      p.linear = linear.element_count() ? linear.typed_data() + 9 * at : nullptr;
      p.x = x.typed_data() + at;
      p.y = y.typed_data() + at;
      p.conic_xx = conic_xx.typed_data() + at;
      p.conic_xy = conic_xy.typed_data() + at;
      p.conic_yy = conic_yy.typed_data() + at;
      p.opacity = opacity.typed_data() + at;
      p.depth = depth.typed_data() + at;
      p.d_means = d_means->typed_data() + 3 * at;
      p.d_quats = d_quats->typed_data() + 4 * at;
      p.d_scales = d_scales->typed_data() + 3 * at;
      p.d_opacities = d_opacities->typed_data() + at;
      p.d_linear = p.linear ? d_linear->typed_data() + 9 * at : nullptr;
      set_camera(p, viewmat.typed_data() + 16 * view, K.typed_data() + 9 * view, size);
      differentiate(p, team, d_viewmat->typed_data() + 16 * view, d_K->typed_data() + 9 * view);
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory while splatting");
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SplatProjectBackward, backward,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // Gaussians
        .Arg<Array>().Arg<Array>()                                         // camera
        .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // x ... conic_yy
        .Arg<Array>().Arg<Array>()                                         // opacity, depth
        .Attr<int64_t>("width")
        .Attr<int64_t>("height")
        .Attr<float>("near")
        .Attr<float>("low_pass")
        .Attr<bool>("antialias")
        .Attr<int64_t>("threads")
        .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
        .Ret<Array>().Ret<Array>());
