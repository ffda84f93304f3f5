// What the scheduler (compositing.cc) and the vector kernels (bands.cc) share.
//
// The image is cut into bands of `kBandRows` rows. A band is the unit of parallel work and owns
// private planes and private gradient rows, so nothing is shared and nothing needs an atomic; the
// cut depends on the image alone, so results do not depend on the number of threads.
//
// bands.cc is compiled once per instruction set. Whatever it includes must therefore have internal
// linkage or be plain data: an inline library function compiled with AVX2 could otherwise be the
// copy the linker keeps for every caller, and crash on a machine without AVX2.
#pragma once
#include <cstddef>
#include <cstdint>

inline constexpr int kBandRows = 32;
inline constexpr int kMaxLanes = 16;  // Padding that lets a kernel write one vector past a row.
inline constexpr int kMoments = 6;   // Numbers that alpha depends on; one per channel follows.

// The field's constants; build.py passes those of config.py.
inline constexpr float kAlphaMin = SPLAT_ALPHA_MIN;
inline constexpr float kAlphaMax = SPLAT_ALPHA_MAX;
inline constexpr float kTransmittanceMin = SPLAT_TRANSMITTANCE_MIN;

// One projected Gaussian: log2(visibility) = a dx^2 + b dx dy + c dy^2 at (dx, dy) from (u, v).
// In the row at dy, alpha can reach kAlphaMin where |dx - slope dy| <= sqrt(reach - bend dy^2).
struct Splat {
  float u, v, a, b, c, opacity;
  float slope, reach, bend;
  int32_t x0, x1, y0, y1;  // The box around those pixels, half open.
  uint32_t source;         // Index among the caller's Gaussians.
  uint32_t gradient_row;   // Its row for the first band it touches; the next bands' rows follow.
  uint32_t unused;         // Fills a cache line.
};

struct Band {
  int index, x0, x1, y0, y1;  // Rows [y0, y1) of the image; columns that any member touches.
  const Splat* splats;        // All of them, front to back...
  const float* colors;        // ...and their channels, [splat][channel].
  const uint32_t* members;    // Those that touch this band, front to back.
  size_t member_count;
  int channels;
  int stride;     // Floats per row of one plane: the columns plus kMaxLanes.
  float* planes;  // [row][plane][stride]; the caller fills in the starting values.
  // Wide kernels only: [row][column of the whole image][channel], of `width` columns.
  float* values;
  int width;
};

// A transmittance below zero marks a finished pixel; its magnitude is the value it stopped at.
// Narrow kernels keep one plane per channel. Wide ones (`is_wide`) have none: they read and write
// the caller's arrays, whose channels are side by side.
struct BandKernels {
  // Planes: transmittance, sum of weights (which one minus the transmittance would only give to
  // few digits where it is small) | sums per channel. Wide: adds to `values`.
  void (*forward)(const Band& band);
  // Planes: transmittance, its tangent | tangents of the sums. Wide: adds those to `values`.
  // `motion` has a row per splat: the tangent of log alpha as a polynomial [1, dx, dy, dx^2,
  // dx dy, dy^2], then the tangents of the channels.
  void (*tangent)(const Band& band, const float* motion);
  // Planes: transmittance, the part of <cotangent, result> that lies behind the splats seen so
  // far | cotangents. Wide: reads the cotangents from `values`.
  // Writes gradient rows [moments of dL/dsigma: 1, dx, dy, dx^2, dx dy, dy^2 | dL/dcolor].
  void (*backward)(const Band& band, float* gradient_rows);
  // Planes: transmittance, index of the median splat's source as an integer.
  void (*median)(const Band& band);
};

// Colour and depth, and those with normals, are worth kernels of their own.
inline constexpr bool is_wide(int channels) { return channels != 4 && channels != 7; }

extern const BandKernels kBaselineKernels;
#ifdef SPLAT_WITH_AVX
extern const BandKernels kAvx2Kernels;
extern const BandKernels kAvx512Kernels;
#endif
