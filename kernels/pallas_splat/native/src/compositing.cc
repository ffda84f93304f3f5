// Compositing of one view, band by band: sets up planes, runs the kernels, and moves the results.
#include "compositing.h"

namespace {

constexpr float kLn2 = 0.6931471805599453f;

const BandKernels& kernels() {
#ifdef SPLAT_WITH_AVX
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool has_avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  if (has_avx2 && has_avx512) return kAvx512Kernels;
  if (has_avx2) return kAvx2Kernels;
#endif
  return kBaselineKernels;
}

// Zeros, but a transmittance of one, or a finished pixel (-1) in the padding of every row.
Scratch<float> start_planes(const Band& band, int planes) {
  const size_t row = static_cast<size_t>(planes) * band.stride, rows = band.y1 - band.y0;
  Scratch<float> data(row * rows);
  for (size_t y = 0; y < rows; ++y) {
    float* transmittance = &data[y * row];
    std::fill_n(transmittance, band.x1 - band.x0, 1.f);
    std::fill_n(transmittance + (band.x1 - band.x0), kMaxLanes, -1.f);
    std::fill(transmittance + band.stride, transmittance + row, 0.f);
  }
  return data;
}

// Two planes and one per channel, unless the channels stay where they are.
int plane_count(int channels) { return is_wide(channels) ? 2 : 2 + channels; }

// Calls job(band, planes) for all bands that have members and idle(first pixel, count) for the
// pixels of the others.
template <typename Job, typename Idle>
void for_bands(const View& view, const Plan& plan, Team& team, int planes, const Job& job,
               const Idle& idle) {
  team.run(plan.bands(), [&](size_t index) {
    Band band = plan.band(view, static_cast<int>(index));
    if (band.member_count == 0) {
      idle(static_cast<size_t>(band.y0) * view.width,
           static_cast<size_t>(band.y1 - band.y0) * view.width);
      return;
    }
    const Scratch<float> data = start_planes(band, planes);
    band.planes = data.data();
    job(band, data.data());
  });
}

// Puts the planes of one row side by side in `values`, with zeros beside the band's columns.
void write_row(const Band& band, const float* planes, float* values) {
  const size_t channels = band.channels, before = band.x0, columns = band.x1 - band.x0;
  std::fill_n(values, before * channels, 0.f);
  float* out = values + before * channels;
  for (size_t x = 0; x < columns; ++x) {
    for (size_t c = 0; c < channels; ++c) *out++ = planes[c * band.stride + x];
  }
  std::fill(out, values + band.width * channels, 0.f);
}

// Composites or their tangents: `run` fills the planes of a band, of which those after the first
// two hold the channels; finish(row of planes, band, column) gives the number for `alpha`.
template <typename Run, typename Finish>
void blend(const View& view, const Plan& plan, Team& team, float* values, float* alpha, const Run& run,
           const Finish& finish) {
  const int planes = plane_count(view.channels);
  const size_t channels = view.channels;
  const auto clear = [&](size_t pixel, size_t count) {
    std::fill_n(values + pixel * channels, count * channels, 0.f);
    std::fill_n(alpha + pixel, count, 0.f);
  };
  const auto job = [&](Band& band, const float* row) {
    const size_t pixel = static_cast<size_t>(band.y0) * view.width;
    const size_t count = static_cast<size_t>(band.y1 - band.y0) * view.width;
    band.values = values + pixel * channels;
    if (is_wide(view.channels)) std::fill_n(band.values, count * channels, 0.f);
    run(band);
    float *out = band.values, *out_alpha = alpha + pixel;
    for (int y = band.y0; y < band.y1; ++y) {
      if (!is_wide(view.channels)) write_row(band, row + 2 * band.stride, out);
      std::fill_n(out_alpha, band.x0, 0.f);
      for (int x = band.x0; x < band.x1; ++x) out_alpha[x] = finish(row, band, x - band.x0);
      std::fill(out_alpha + band.x1, out_alpha + view.width, 0.f);
      row += static_cast<size_t>(planes) * band.stride;
      out += view.width * channels;
      out_alpha += view.width;
    }
  };
  for_bands(view, plan, team, planes, job, clear);
}

// Splits the cotangents into planes and starts the running sum of <cotangent, result>.
void fill_backward_planes(const View& view, const Band& band, const Cotangents& at, float* row) {
  const int channels = view.channels, planes = plane_count(channels);
  for (int y = band.y0; y < band.y1; ++y, row += static_cast<size_t>(planes) * band.stride) {
    const size_t pixel = static_cast<size_t>(y) * view.width + band.x0;
    const float* value = at.values + pixel * channels;
    const float* d_value = at.d_values + pixel * channels;
    for (int x = 0; x < band.x1 - band.x0; ++x) {
      // Alpha is one minus the light that is left, hence the sign.
      float total = -(1.f - at.alpha[pixel + x]) * at.d_alpha[pixel + x];
      for (int c = 0; c < channels; ++c) {
        total += *value++ * *d_value;
        if (planes > 2) row[(2 + c) * band.stride + x] = *d_value;
        ++d_value;
      }
      row[band.stride + x] = total;
    }
  }
}

// Adds up each splat's rows in the order of the bands and turns moments into derivatives.
void reduce(const View& view, const Plan& plan, const float* rows, size_t begin, size_t end,
            const Shape<float>& to) {
  const size_t channels = view.channels, width = kMoments + channels;
  for (size_t j = begin; j < end; ++j) {
    const Splat& s = plan.splats[j];
    const size_t i = s.source;
    const float* row = rows + s.gradient_row * width;
    float* color = to.colors + i * channels;
    float m[kMoments] = {};
    for (int b = s.y0 / kBandRows; b * kBandRows < s.y1; ++b, row += width) {
      for (int k = 0; k < kMoments; ++k) m[k] += row[k];
      for (size_t c = 0; c < channels; ++c) color[c] += row[kMoments + c];
    }
    to.x[i] = kLn2 * (2.f * s.a * m[1] + s.b * m[2]);
    to.y[i] = kLn2 * (s.b * m[1] + 2.f * s.c * m[2]);
    to.conic_xx[i] = 0.5f * m[3];
    to.conic_xy[i] = m[4];
    to.conic_yy[i] = 0.5f * m[5];
    to.opacity[i] = -m[0] / s.opacity;
  }
}

// The tangent of log alpha = ln2 (a dx^2 + b dx dy + c dy^2) + log opacity, see bands.h.
void set_motion(const Splat& s, const Shape<const float>& d, size_t channels, float* out) {
  const size_t i = s.source;
  *out++ = d.opacity[i] / s.opacity;
  *out++ = -kLn2 * (2.f * s.a * d.x[i] + s.b * d.y[i]);
  *out++ = -kLn2 * (s.b * d.x[i] + 2.f * s.c * d.y[i]);
  *out++ = -0.5f * d.conic_xx[i];
  *out++ = -d.conic_xy[i];
  *out++ = -0.5f * d.conic_yy[i];
  std::copy_n(d.colors + i * channels, channels, out);
}

}  // namespace

void forward_view(const View& view, Team& team, float* values, float* alpha) {
  const Plan plan = make_plan(view, team);
  blend(
      view, plan, team, values, alpha, [](const Band& band) { kernels().forward(band); },
      [](const float* row, const Band& band, int x) { return row[band.stride + x]; });
}

void tangent_view(const View& view, Team& team, const Shape<const float>& d, float* d_values,
                  float* d_alpha) {
  const Plan plan = make_plan(view, team);
  const size_t width = kMoments + view.channels;
  const Scratch<float> motion(plan.splat_count * width);
  for_pieces(team, plan.splat_count, [&](size_t, size_t begin, size_t end) {
    for (size_t j = begin; j < end; ++j) {
      set_motion(plan.splats[j], d, view.channels, &motion[j * width]);
    }
  });
  blend(
      view, plan, team, d_values, d_alpha,
      [&](const Band& band) { kernels().tangent(band, motion.data()); },
      [](const float* row, const Band& band, int x) { return -row[band.stride + x]; });
}

void median_view(const View& view, Team& team, int32_t* ids) {
  const Plan plan = make_plan(view, team, false);
  std::fill_n(ids, static_cast<size_t>(view.height) * view.width, -1);
  const auto job = [&](const Band& band, float* planes) {
    for (int y = 0; y < band.y1 - band.y0; ++y) {
      int32_t* out = ids + static_cast<size_t>(band.y0 + y) * view.width + band.x0;
      float* row = planes + (2 * y + 1) * static_cast<size_t>(band.stride);
      std::memcpy(row, out, sizeof(float) * (band.x1 - band.x0));
    }
    kernels().median(band);
    for (int y = 0; y < band.y1 - band.y0; ++y) {
      int32_t* out = ids + static_cast<size_t>(band.y0 + y) * view.width + band.x0;
      const float* row = planes + (2 * y + 1) * static_cast<size_t>(band.stride);
      std::memcpy(out, row, sizeof(float) * (band.x1 - band.x0));
    }
  };
  for_bands(view, plan, team, 2, job, [](size_t, size_t) {});
}

void backward_view(const View& view, Team& team, const Cotangents& at, const Shape<float>& to) {
  const Plan plan = make_plan(view, team);
  const size_t width = kMoments + view.channels;
  const Scratch<float> rows(plan.gradient_rows * width);
  const auto job = [&](Band& band, float* planes) {
    const size_t pixel = static_cast<size_t>(band.y0) * view.width;
    band.values = const_cast<float*>(at.d_values) + pixel * view.channels;  // The kernel reads it.
    fill_backward_planes(view, band, at, planes);
    kernels().backward(band, rows.data());
  };
  for_bands(view, plan, team, plane_count(view.channels), job, [](size_t, size_t) {});
  for (float* p : {to.x, to.y, to.conic_xx, to.conic_xy, to.conic_yy, to.opacity}) {
    std::fill_n(p, view.count, 0.f);  // Gaussians without a splat.
  }
  std::fill_n(to.colors, view.count * view.channels, 0.f);
  for_pieces(team, plan.splat_count, [&](size_t, size_t begin, size_t end) {
    reduce(view, plan, rows.data(), begin, end, to);
  });
}
