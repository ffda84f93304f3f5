// The inner loops: blend one band's splats front to back, and replay that for the gradients.
//
// Each splat walks the columns of its box one vector at a time and, within a column, the rows.
// Read bands.h before including anything here.
#include "bands.h"

#include "vector.h"

namespace {

// Calls visit(p, dx, dy, power) for every vector of a splat's pixels in a band: p points to its
// first pixel in the first plane, power is log2 of the visibility. `row` is the distance of rows.
template <typename Visit>
inline void visit_pixels(const Splat& s, const Band& band, size_t row, Visit visit) {
  const int y0 = s.y0 > band.y0 ? s.y0 : band.y0, y1 = s.y1 < band.y1 ? s.y1 : band.y1;
  const Floats c = broadcast(s.c);
  for (int x = s.x0; x < s.x1; x += kLanes) {
    const Floats dx = lane_numbers() + (static_cast<float>(x) + 0.5f - s.u);
    const Floats a_dx2 = s.a * dx * dx, b_dx = s.b * dx;
    Floats dy = broadcast(static_cast<float>(y0) + 0.5f - s.v);
    float* p = band.planes + (y0 - band.y0) * row + x;
    for (int y = y0; y < y1; ++y, p += row, dy += 1.f) {
      visit(p, dx, dy, a_dx2 + dy * (b_dx + c * dy));
    }
  }
}

// Alpha before the cap, and after the cap and the cut.
struct Alpha {
  Floats raw, used;
};

inline Alpha alpha_at(Floats opacity, Floats power) {
  power = larger(smaller(power, Floats{}), broadcast(-100.f));
  const Floats raw = opacity * exp2(power);
  const Floats capped = smaller(raw, broadcast(kAlphaMax));
  return {raw, capped >= kAlphaMin ? capped : Floats{}};
}

// kStatic is the number of channels where it is known, so that loops over channels unroll, or 0.
template <int kStatic>
void forward(const Band& band) {
  const int channels = kStatic ? kStatic : band.channels;
  const size_t stride = band.stride, row = (1 + channels) * stride;
  for (size_t i = 0; i < band.member_count; ++i) {
    const uint32_t member = band.members[i];
    const Splat& s = band.splats[member];
    const float* color = band.colors + static_cast<size_t>(member) * channels;
    const Floats opacity = broadcast(s.opacity);
    Floats shades[kStatic ? kStatic : 1];
    for (int c = 0; c < kStatic; ++c) shades[c] = broadcast(color[c]);
    visit_pixels(s, band, row, [&](float* p, Floats, Floats, Floats power) {
      const Floats t = load(p);
      if (all_negative(t)) return;
      Floats weight = alpha_at(opacity, power).used * t;
      const Floats next = t - weight;
      weight = next > kTransmittanceMin ? weight : Floats{};
      store(p, next > kTransmittanceMin ? next : negative(t));
      for (int c = 0; c < channels; ++c) {
        float* q = p + (1 + c) * stride;
        store(q, load(q) + weight * (kStatic ? shades[c] : broadcast(color[c])));
      }
    });
  }
}

// With w = alpha T, g the cotangent and R the part of <g, result> behind this splat,
// dL/dalpha = T <g, color> - R / (1 - alpha), and dL/dsigma = -alpha dL/dalpha below the cap.
template <int kStatic>
void backward(const Band& band, float* gradient_rows, float* scratch) {
  const int channels = kStatic ? kStatic : band.channels;
  const size_t stride = band.stride, row = (2 + channels) * stride;
  Floats in_registers[kStatic ? kStatic : 1];
  Floats* color_sums = kStatic ? in_registers : reinterpret_cast<Floats*>(scratch);
  for (size_t i = 0; i < band.member_count; ++i) {
    const uint32_t member = band.members[i];
    const Splat& s = band.splats[member];
    const float* color = band.colors + static_cast<size_t>(member) * channels;
    Floats m0{}, mx{}, my{}, mxx{}, mxy{}, myy{};
    for (int c = 0; c < channels; ++c) color_sums[c] = Floats{};
    const Floats opacity = broadcast(s.opacity);
    visit_pixels(s, band, row, [&](float* p, Floats dx, Floats dy, Floats power) {
      const Floats t = load(p);
      if (all_negative(t)) return;
      Alpha alpha = alpha_at(opacity, power);
      Floats weight = alpha.used * t;
      const Floats next = t - weight;
      weight = next > kTransmittanceMin ? weight : Floats{};
      alpha.used = next > kTransmittanceMin ? alpha.used : Floats{};
      store(p, next > kTransmittanceMin ? next : negative(t));
      Floats shade{};
      for (int c = 0; c < channels; ++c) {
        const Floats g = load(p + (2 + c) * stride);
        shade += g * color[c];
        color_sums[c] += weight * g;
      }
      const Floats ahead = weight * shade, behind = load(p + stride) - ahead;
      store(p + stride, behind);
      Floats d = behind * alpha.used / (1.f - alpha.used) - ahead;
      d = alpha.raw < kAlphaMax ? d : Floats{};
      const Floats d_dx = d * dx, d_dy = d * dy;
      m0 += d;
      mx += d_dx;
      my += d_dy;
      mxx += d_dx * dx;
      mxy += d_dx * dy;
      myy += d_dy * dy;
    });
    const size_t touched = s.gradient_row + (band.index - s.y0 / kBandRows);
    float* out = gradient_rows + touched * (kMoments + channels);
    out[0] = sum(m0);
    out[1] = sum(mx);
    out[2] = sum(my);
    out[3] = sum(mxx);
    out[4] = sum(mxy);
    out[5] = sum(myy);
    for (int c = 0; c < channels; ++c) out[kMoments + c] = sum(color_sums[c]);
  }
}

void forward_any(const Band& band) {
  if (band.channels == 4) return forward<4>(band);  // Color and depth, without features.
  forward<0>(band);
}

void backward_any(const Band& band, float* gradient_rows, float* scratch) {
  if (band.channels == 4) return backward<4>(band, gradient_rows, scratch);
  backward<0>(band, gradient_rows, scratch);
}

}  // namespace

#ifdef __AVX2__
extern const BandKernels kAvx2Kernels = {forward_any, backward_any};
#else
extern const BandKernels kBaselineKernels = {forward_any, backward_any};
#endif
