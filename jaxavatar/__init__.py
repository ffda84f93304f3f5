"""From one photo and a voice to a talking 3D Gaussian avatar."""
