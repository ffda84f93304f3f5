// The inner loops: blend one band's splats front to back, and replay that for the gradients.
//
// Each splat walks the columns of its box one vector at a time and, within a column, the rows.
// Read bands.h before including anything here.
#include "bands.h"

#include "vector.h"

namespace {

struct Column {
  Floats dx;    // Offset of the pixel centres from the splat's centre.
  Floats a_dx2, b_dx;
};

inline Column column_at(const Splat& s, int x) {
  const Floats dx = lane_numbers() + (static_cast<float>(x) + 0.5f - s.u);
  return {dx, s.a * dx * dx, s.b * dx};
}

// Alpha before the cap, and after the cap and the cut.
struct Alpha {
  Floats raw, used;
};

inline Alpha alpha_at(const Splat& s, const Column& column, float dy) {
  Floats power = column.a_dx2 + (column.b_dx * dy + s.c * dy * dy);
  power = power < 0.f ? power : Floats{};
  power = power > -100.f ? power : broadcast(-100.f);
  const Floats raw = s.opacity * exp2(power);
  const Floats capped = raw < kAlphaMax ? raw : broadcast(kAlphaMax);
  return {raw, capped >= kAlphaMin ? capped : Floats{}};
}

inline int clip_above(int y, int low) { return y < low ? low : y; }
inline int clip_below(int y, int high) { return y > high ? high : y; }

// kStatic is the number of channels where it is known, so that loops over channels unroll, or 0.
template <int kStatic>
void forward(const Band& band) {
  const int channels = kStatic ? kStatic : band.channels;
  const size_t stride = band.stride, row = (1 + channels) * stride;
  for (size_t i = 0; i < band.member_count; ++i) {
    const uint32_t member = band.members[i];
    const Splat& s = band.splats[member];
    const float* color = band.colors + static_cast<size_t>(member) * channels;
    const int y0 = clip_above(s.y0, band.y0), y1 = clip_below(s.y1, band.y1);
    for (int x = s.x0; x < s.x1; x += kLanes) {
      const Column column = column_at(s, x);
      float* p = band.planes + (y0 - band.y0) * row + x;
      for (int y = y0; y < y1; ++y, p += row) {
        const Floats t = load(p);
        if (all_negative(t)) continue;
        const Floats alpha = alpha_at(s, column, y + 0.5f - s.v).used;
        Floats weight = alpha * t;
        const Floats next = t - weight;
        weight = next > kTransmittanceMin ? weight : Floats{};
        store(p, next > kTransmittanceMin ? next : negative(t));
        for (int c = 0; c < channels; ++c) {
          float* q = p + (1 + c) * stride;
          store(q, load(q) + weight * color[c]);
        }
      }
    }
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
    const int y0 = clip_above(s.y0, band.y0), y1 = clip_below(s.y1, band.y1);
    Floats m0{}, mx{}, my{}, mxx{}, mxy{}, myy{};
    for (int c = 0; c < channels; ++c) color_sums[c] = Floats{};
    for (int x = s.x0; x < s.x1; x += kLanes) {
      const Column column = column_at(s, x);
      float* p = band.planes + (y0 - band.y0) * row + x;
      for (int y = y0; y < y1; ++y, p += row) {
        const Floats t = load(p);
        if (all_negative(t)) continue;
        const float dy = y + 0.5f - s.v;
        Alpha alpha = alpha_at(s, column, dy);
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
        const Floats d_dx = d * column.dx, d_dy = d * dy;
        m0 += d;
        mx += d_dx;
        my += d_dy;
        mxx += d_dx * column.dx;
        mxy += d_dx * dy;
        myy += d_dy * dy;
      }
    }
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
