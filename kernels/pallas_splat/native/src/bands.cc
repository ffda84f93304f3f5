// The inner loops: blend one band's splats front to back, and what derives from that.
//
// Each splat walks the rows of its box and, within a row, the pixels its ellipse covers, one vector
// at a time. Read bands.h before including anything here.
#include "bands.h"

#include "pixels.h"

namespace {

// kStatic is the number of channels of a narrow kernel, or 0 for the wide one.
template <int kStatic>
void forward(const Band& band) {
  const int channels = kStatic ? kStatic : band.channels;
  const size_t stride = band.stride, row = (2 + kStatic) * stride;
  for (size_t i = 0; i < band.member_count; ++i) {
    prefetch_member(band, i);
    const uint32_t member = band.members[i];
    const Splat& s = band.splats[member];
    const float* color = band.colors + static_cast<size_t>(member) * channels;
    const Floats opacity = broadcast(s.opacity);
    visit_pixels(s, band, row, [&](const Place& at) {
      const Floats t = load(at.p);
      if (all_negative(t)) return;
      Floats weight = alpha_at(opacity, at.power).used * t;
      const Floats next = t - weight;
      weight = next > kTransmittanceMin ? weight : Floats{};
      store(at.p, next > kTransmittanceMin ? next : negative(t));
      store(at.p + stride, load(at.p + stride) + weight);
      if constexpr (kStatic > 0) {
        for (int c = 0; c < kStatic; ++c) {
          float* q = at.p + (2 + c) * stride;
          store(q, load(q) + weight * color[c]);
        }
      } else {
        for (int lane = 0; lane < kLanes; ++lane) {
          const float w = weight[lane];
          if (w == 0.f) continue;
          float* q = wide_pixel(band, at.x, at.y, lane);
          for_channels(
              channels, [&](int c) { store(q + c, load(q + c) + w * load(color + c)); },
              [&](int c) { q[c] += w * color[c]; });
        }
      }
    });
  }
}

// The derivative of log alpha is zero where alpha is capped; order and thresholds are constants.
template <int kStatic>
void tangent(const Band& band, const float* motion) {
  const int channels = kStatic ? kStatic : band.channels;
  const size_t stride = band.stride, row = (2 + kStatic) * stride;
  for (size_t i = 0; i < band.member_count; ++i) {
    prefetch_member(band, i);
    const size_t member = band.members[i];
    const Splat& s = band.splats[member];
    const float* color = band.colors + member * channels;
    const float* m = motion + member * (kMoments + channels);
    const float* d_color = m + kMoments;
    const Floats opacity = broadcast(s.opacity);
    visit_pixels(s, band, row, [&](const Place& at) {
      const Floats t = load(at.p), d_t = load(at.p + stride);
      if (all_negative(t)) return;
      const Alpha alpha = alpha_at(opacity, at.power);
      Floats d_log = (m[3] * at.dx + (m[4] * at.dy + m[1])) * at.dx +
                     (m[0] + at.dy * (m[2] + m[5] * at.dy));
      d_log = alpha.raw < kAlphaMax ? d_log : Floats{};
      Floats weight = alpha.used * t;
      const Floats next = t - weight;
      const Floats d_weight_drawn = alpha.used * (d_log * t + d_t);
      const Floats d_weight = next > kTransmittanceMin ? d_weight_drawn : Floats{};
      weight = next > kTransmittanceMin ? weight : Floats{};
      store(at.p, next > kTransmittanceMin ? next : negative(t));
      store(at.p + stride, d_t - d_weight);
      if constexpr (kStatic > 0) {
        for (int c = 0; c < kStatic; ++c) {
          float* q = at.p + (2 + c) * stride;
          store(q, load(q) + d_weight * color[c] + weight * d_color[c]);
        }
      } else {
        for (int lane = 0; lane < kLanes; ++lane) {
          const float w = weight[lane], d_w = d_weight[lane];
          if (w == 0.f) continue;
          float* q = wide_pixel(band, at.x, at.y, lane);
          for_channels(
              channels,
              [&](int c) {
                store(q + c, load(q + c) + d_w * load(color + c) + w * load(d_color + c));
              },
              [&](int c) { q[c] += d_w * color[c] + w * d_color[c]; });
        }
      }
    });
  }
}

// <cotangent, color> for every lane of a wide band; adds weight times cotangent to `sums`.
inline Floats wide_shades(const Band& band, const Place& at, Floats weight, const float* color,
                          float* sums) {
  Floats shade{};
  for (int lane = 0; lane < kLanes; ++lane) {
    const float w = weight[lane];
    if (w == 0.f) continue;
    const float* g = wide_pixel(band, at.x, at.y, lane);
    Floats products{};
    float rest = 0.f;
    for_channels(
        band.channels,
        [&](int c) {
          const Floats cotangent = load(g + c);
          products += cotangent * load(color + c);
          store(sums + c, load(sums + c) + w * cotangent);
        },
        [&](int c) {
          rest += g[c] * color[c];
          sums[c] += w * g[c];
        });
    shade[lane] = sum(products) + rest;
  }
  return shade;
}

// With w = alpha T, g the cotangent and R the part of <g, result> behind this splat,
// dL/dalpha = T <g, color> - R / (1 - alpha), and dL/dsigma = -alpha dL/dalpha below the cap.
template <int kStatic>
void backward(const Band& band, float* gradient_rows) {
  const int channels = kStatic ? kStatic : band.channels;
  const size_t stride = band.stride, row = (2 + kStatic) * stride;
  for (size_t i = 0; i < band.member_count; ++i) {
    prefetch_member(band, i);
    const uint32_t member = band.members[i];
    const Splat& s = band.splats[member];
    const float* color = band.colors + static_cast<size_t>(member) * channels;
    const size_t touched = s.gradient_row + (band.index - s.y0 / kBandRows);
    float* out = gradient_rows + touched * (kMoments + channels);
    for (int c = 0; !kStatic && c < channels; ++c) out[kMoments + c] = 0.f;
    Floats m0{}, mx{}, my{}, mxx{}, mxy{}, myy{}, row_0{}, row_x{};
    Floats color_sums[kStatic ? kStatic : 1] = {};
    const Floats opacity = broadcast(s.opacity);
    const auto visit = [&](const Place& at) {
      const Floats t = load(at.p);
      if (all_negative(t)) return;
      Alpha alpha = alpha_at(opacity, at.power);
      Floats weight = alpha.used * t;
      const Floats next = t - weight;
      weight = next > kTransmittanceMin ? weight : Floats{};
      alpha.used = next > kTransmittanceMin ? alpha.used : Floats{};
      store(at.p, next > kTransmittanceMin ? next : negative(t));
      Floats shade{};
      if constexpr (kStatic > 0) {
        for (int c = 0; c < kStatic; ++c) {
          const Floats g = load(at.p + (2 + c) * stride);
          shade += g * color[c];
          color_sums[c] += weight * g;
        }
      } else {
        shade = wide_shades(band, at, weight, color, out + kMoments);
      }
      const Floats ahead = weight * shade, behind = load(at.p + stride) - ahead;
      store(at.p + stride, behind);
      Floats d = behind * alpha.used / (1.f - alpha.used) - ahead;
      d = alpha.raw < kAlphaMax ? d : Floats{};
      const Floats d_dx = d * at.dx;
      row_0 += d;
      row_x += d_dx;
      mxx += d_dx * at.dx;
    };
    const auto end_row = [&](float dy) {
      m0 += row_0;
      mx += row_x;
      my += row_0 * dy;
      mxy += row_x * dy;
      myy += row_0 * (dy * dy);
      row_0 = row_x = Floats{};
    };
    visit_pixels(s, band, row, visit, end_row);
    const Floats moments[kMoments] = {m0, mx, my, mxx, mxy, myy};
    for (int k = 0; k < kMoments; ++k) out[k] = sum(moments[k]);
    for (int c = 0; c < kStatic; ++c) out[kMoments + c] = sum(color_sums[c]);
  }
}

// A pixel counts as finished once its median is known.
void median(const Band& band) {
  const size_t stride = band.stride, row = 2 * stride;
  for (size_t i = 0; i < band.member_count; ++i) {
    prefetch_member(band, i);
    const Splat& s = band.splats[band.members[i]];
    const Floats opacity = broadcast(s.opacity);
    const Floats source = (Floats)(Ints{} + static_cast<int32_t>(s.source));
    visit_pixels(s, band, row, [&](const Place& at) {
      const Floats t = load(at.p);
      if (all_negative(t)) return;
      const Floats next = t - alpha_at(opacity, at.power).used * t;
      // From above one half to [kTransmittanceMin, 1/2] with one splat.
      const Floats known = next > 0.5f ? Floats{} : broadcast(1.f);
      const Floats found = next > kTransmittanceMin ? known : Floats{};
      const Floats id = load(at.p + stride);
      store(at.p + stride, found > 0.f ? source : id);
      const Floats stopped = negative(next > kTransmittanceMin ? next : t);
      store(at.p, next > 0.5f ? next : stopped);
    });
  }
}

void forward_any(const Band& band) {
  if (band.channels == 4) return forward<4>(band);
  if (band.channels == 7) return forward<7>(band);
  forward<0>(band);
}

void tangent_any(const Band& band, const float* motion) {
  if (band.channels == 4) return tangent<4>(band, motion);
  if (band.channels == 7) return tangent<7>(band, motion);
  tangent<0>(band, motion);
}

void backward_any(const Band& band, float* gradient_rows) {
  if (band.channels == 4) return backward<4>(band, gradient_rows);
  if (band.channels == 7) return backward<7>(band, gradient_rows);
  backward<0>(band, gradient_rows);
}

}  // namespace

#if defined(__AVX512F__)
extern const BandKernels kAvx512Kernels = {forward_any, tangent_any, backward_any, median};
#elif defined(__AVX2__)
extern const BandKernels kAvx2Kernels = {forward_any, tangent_any, backward_any, median};
#else
extern const BandKernels kBaselineKernels = {forward_any, tangent_any, backward_any, median};
#endif
