// The VJP of the projection, which XLA's CPU backend computes several times slower.
//
// projection.cc is compiled once per instruction set; see bands.h for what that forbids here.
#pragma once
#include <cstddef>

inline constexpr int kCameraSums = 16;  // Rows of the rotation, translation, fx, fy, cx, cy.

// Arrays of `count` rows. Names and meaning are those of project.py.
struct Projection {
  const float *means, *quats, *scales, *opacities;
  const float* linear;  // [count][3][3], or null for the identity.
  // Cotangents of the projected Gaussians.
  const float *x, *y, *conic_xx, *conic_xy, *conic_yy, *opacity, *depth;
  // Results.
  float *d_means, *d_quats, *d_scales, *d_opacities, *d_linear;
  size_t count;

  float rotation[9], translation[3], focal[2], centre[2];
  float slope_low[2], slope_high[2];  // The widened frustum.
  float near, low_pass;
  bool antialias;
};

// Differentiates Gaussians [begin, end); writes the camera's part to `camera_sums`. A Gaussian whose
// cotangents are all zero gets zeros, whatever its numbers are.
using ProjectBackward = void(const Projection& p, size_t begin, size_t end, float* camera_sums);

ProjectBackward project_backward_baseline;
#ifdef SPLAT_WITH_AVX
ProjectBackward project_backward_avx2;
#endif
