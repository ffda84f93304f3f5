// The two operations that XLA calls: composite projected Gaussians front to back, and its VJP.
//
// Leading dimensions beyond those documented are batch dimensions.
#include <cstdint>
#include <memory>
#include <vector>

#include "bands.h"
#include "plan.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Mask = ffi::Buffer<ffi::PRED>;
using Out = ffi::ResultBuffer<ffi::F32>;

namespace {

const BandKernels& kernels() {
#ifdef SPLAT_WITH_AVX2
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2) return kAvx2Kernels;
#endif
  return kBaselineKernels;
}

// Planes of one band with a finished pixel (transmittance -1) in the padding of every row.
std::unique_ptr<float[]> start_planes(const Band& band, int planes, int width) {
  const size_t row = static_cast<size_t>(planes) * band.stride;
  std::unique_ptr<float[]> data(new float[row * (band.y1 - band.y0)]());
  for (int y = 0; y < band.y1 - band.y0; ++y) {
    float* transmittance = data.get() + y * row;
    std::fill(transmittance, transmittance + width, 1.f);
    std::fill(transmittance + width, transmittance + band.stride, -1.f);
  }
  return data;
}

void forward_view(const View& view, Team& team, float* values, float* alpha) {
  const Plan plan = make_plan(view, team);
  team.run(plan.bands(), [&](size_t index) {
    Band band = plan.band(view, static_cast<int>(index));
    const auto planes = start_planes(band, 1 + view.channels, view.width);
    band.planes = planes.get();
    kernels().forward(band);
    const float* row = planes.get();
    for (int y = band.y0; y < band.y1; ++y, row += (1 + view.channels) * band.stride) {
      const size_t pixel = static_cast<size_t>(y) * view.width;
      float* out = values + pixel * view.channels;
      for (int x = 0; x < view.width; ++x) alpha[pixel + x] = 1.f - std::fabs(row[x]);
      for (int x = 0; x < view.width; ++x) {
        for (int c = 0; c < view.channels; ++c) *out++ = row[(1 + c) * band.stride + x];
      }
    }
  });
}

struct Gradients {
  float *x, *y, *conic_xx, *conic_xy, *conic_yy, *opacity, *colors;
};

struct Cotangents {
  const float *values, *alpha;      // Results of the forward operation...
  const float *d_values, *d_alpha;  // ...and the loss's derivatives with respect to them.
};

// Splits the cotangents into planes and starts the running sum of <cotangent, result>.
void fill_backward_planes(const View& view, const Band& band, const Cotangents& at, float* row) {
  for (int y = band.y0; y < band.y1; ++y, row += (2 + view.channels) * band.stride) {
    const size_t pixel = static_cast<size_t>(y) * view.width;
    const float* value = at.values + pixel * view.channels;
    const float* d_value = at.d_values + pixel * view.channels;
    for (int x = 0; x < view.width; ++x) {
      // Alpha is one minus the light that is left, hence the sign.
      float total = -(1.f - at.alpha[pixel + x]) * at.d_alpha[pixel + x];
      for (int c = 0; c < view.channels; ++c) {
        total += *value++ * *d_value;
        row[(2 + c) * band.stride + x] = *d_value++;
      }
      row[band.stride + x] = total;
    }
  }
}

// Adds up each splat's rows in the order of the bands and turns moments into derivatives.
void reduce(const View& view, const Plan& plan, const float* rows, size_t begin, size_t end,
            const Gradients& to) {
  constexpr float kLn2 = 0.6931471805599453f;
  const size_t channels = view.channels, width = kMoments + channels;
  for (size_t j = begin; j < end; ++j) {
    const Splat& s = plan.splats[j];
    const size_t i = s.source;
    const float* row = rows + s.gradient_row * width;
    float m[kMoments] = {};
    for (int b = s.y0 / kBandRows; b * kBandRows < s.y1; ++b, row += width) {
      for (int k = 0; k < kMoments; ++k) m[k] += row[k];
      for (size_t c = 0; c < channels; ++c) to.colors[i * channels + c] += row[kMoments + c];
    }
    to.x[i] = kLn2 * (2.f * s.a * m[1] + s.b * m[2]);
    to.y[i] = kLn2 * (s.b * m[1] + 2.f * s.c * m[2]);
    to.conic_xx[i] = 0.5f * m[3];
    to.conic_xy[i] = m[4];
    to.conic_yy[i] = 0.5f * m[5];
    to.opacity[i] = -m[0] / s.opacity;
  }
}

void backward_view(const View& view, Team& team, const Cotangents& at, const Gradients& to) {
  const Plan plan = make_plan(view, team);
  const size_t width = kMoments + view.channels;
  std::unique_ptr<float[]> rows(new float[plan.gradient_rows * width]);
  team.run(plan.bands(), [&](size_t index) {
    Band band = plan.band(view, static_cast<int>(index));
    const auto planes = start_planes(band, 2 + view.channels, view.width);
    band.planes = planes.get();
    fill_backward_planes(view, band, at, planes.get());
    std::unique_ptr<float[]> scratch(new float[(view.channels + 1) * kMaxLanes]);
    const auto address = reinterpret_cast<uintptr_t>(scratch.get());
    float* aligned = scratch.get() + (32 - address % 32) % 32 / sizeof(float);
    kernels().backward(band, rows.get(), aligned);
  });
  for (float* p : {to.x, to.y, to.conic_xx, to.conic_xy, to.conic_yy, to.opacity}) {
    std::fill_n(p, view.count, 0.f);  // Gaussians without a splat.
  }
  std::fill_n(to.colors, view.count * view.channels, 0.f);
  const size_t n = plan.splats.size();
  team.run((n + kPiece - 1) / kPiece, [&](size_t piece) {
    reduce(view, plan, rows.get(), piece * kPiece, std::min((piece + 1) * kPiece, n), to);
  });
}

struct Inputs {
  Array x, y, conic_xx, conic_xy, conic_yy, opacity, depth, extent_x, extent_y;
  Mask visible;
  Array colors;

  View view(size_t batch_index, int width, int height) const {
    const auto shape = colors.dimensions();
    View v{};
    v.count = shape[shape.size() - 2];
    v.channels = static_cast<int>(shape.back());
    v.width = width;
    v.height = height;
    const size_t at = batch_index * v.count;
    v.x = x.typed_data() + at;
    v.y = y.typed_data() + at;
    v.conic_xx = conic_xx.typed_data() + at;
    v.conic_xy = conic_xy.typed_data() + at;
    v.conic_yy = conic_yy.typed_data() + at;
    v.opacity = opacity.typed_data() + at;
    v.depth = depth.typed_data() + at;
    v.extent_x = extent_x.typed_data() + at;
    v.extent_y = extent_y.typed_data() + at;
    v.visible = visible.typed_data() + at;
    v.colors = colors.typed_data() + at * v.channels;
    return v;
  }
};

// Views in parallel where there are enough of them, bands of one view in parallel otherwise; what
// is computed is the same.
template <typename Job>
ffi::Error for_each_view(size_t views, ffi::ThreadPool pool, int64_t threads, const Job& job) {
  try {
    Team team(pool, threads);
    if (views >= static_cast<size_t>(team.size())) {
      Team alone(pool, 1);
      team.run(views, [&](size_t i) { job(i, alone); });
    } else {
      for (size_t i = 0; i < views; ++i) job(i, team);
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory while splatting");
  }
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, Array x, Array y, Array conic_xx, Array conic_xy,
                   Array conic_yy, Array opacity, Array depth, Array extent_x, Array extent_y,
                   Mask visible, Array colors, int64_t threads, Out values, Out alpha) {
  const Inputs inputs{x,       y,     conic_xx, conic_xy, conic_yy, opacity,
                      depth, extent_x, extent_y, visible, colors};
  const auto shape = values->dimensions();
  const size_t rank = shape.size(), height = shape[rank - 3], width = shape[rank - 2];
  const size_t views = alpha->element_count() / (height * width);
  return for_each_view(views, pool, threads, [&](size_t i, Team& team) {
    const View view = inputs.view(i, static_cast<int>(width), static_cast<int>(height));
    const size_t pixel = i * height * width;
    forward_view(view, team, values->typed_data() + pixel * view.channels,
                 alpha->typed_data() + pixel);
  });
}

ffi::Error backward(ffi::ThreadPool pool, Array x, Array y, Array conic_xx, Array conic_xy,
                    Array conic_yy, Array opacity, Array depth, Array extent_x, Array extent_y,
                    Mask visible, Array colors, Array values, Array alpha, Array d_values,
                    Array d_alpha, int64_t threads, Out d_x, Out d_y, Out d_conic_xx,
                    Out d_conic_xy, Out d_conic_yy, Out d_opacity, Out d_colors) {
  const Inputs inputs{x,       y,     conic_xx, conic_xy, conic_yy, opacity,
                      depth, extent_x, extent_y, visible, colors};
  const auto shape = values.dimensions();
  const size_t rank = shape.size(), height = shape[rank - 3], width = shape[rank - 2];
  const size_t views = alpha.element_count() / (height * width);
  return for_each_view(views, pool, threads, [&](size_t i, Team& team) {
    const View view = inputs.view(i, static_cast<int>(width), static_cast<int>(height));
    const size_t pixel = i * height * width, at = i * view.count;
    const Cotangents cotangents{
        values.typed_data() + pixel * view.channels, alpha.typed_data() + pixel,
        d_values.typed_data() + pixel * view.channels, d_alpha.typed_data() + pixel};
    const Gradients gradients{
        d_x->typed_data() + at,        d_y->typed_data() + at,
        d_conic_xx->typed_data() + at, d_conic_xy->typed_data() + at,
        d_conic_yy->typed_data() + at, d_opacity->typed_data() + at,
        d_colors->typed_data() + at * view.channels};
    backward_view(view, team, cotangents, gradients);
  });
}

auto bind_projected() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // x ... conic_yy
      .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // opacity, depth, extents
      .Arg<Mask>()
      .Arg<Array>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(SplatForward, forward,
                              bind_projected()
                                  .Attr<int64_t>("threads")
                                  .Ret<Array>()
                                  .Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SplatBackward, backward,
    bind_projected()
        .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // results and their cotangents
        .Attr<int64_t>("threads")
        .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
        .Ret<Array>());
