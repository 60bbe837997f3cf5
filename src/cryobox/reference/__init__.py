"""The work of the numerical core in float64: literal and slow, and what the tests and `verify` believe.

NumPy only, nothing of this package, and no FFT: Fourier cropping is the separable real operator of docs/conventions.md
("Intensity"), so that an error in a transform, a layout or an index cannot hide on both sides of a comparison.
Positions are (y, x) in pixels; pixel (0, 0) is the center of the first stored pixel.
"""

from __future__ import annotations

from cryobox.reference.backgrounds import tube_mask, without_neighbors
from cryobox.reference.dust import dust_mask, gaussian, noise_key, replace_dust
from cryobox.reference.expansion import SubParticle, subparticles, symmetry_group, view_of
from cryobox.reference.geometry import (
    EDGE,
    NO_CONTRAST,
    NOT_FINITE,
    OK,
    OUTSIDE,
    Recentered,
    adjusted_defocus,
    depth_of_point,
    edge_status,
    point_in_image,
    recenter,
    window,
)
from cryobox.reference.helices import (
    Segment,
    across_steps,
    middle_of,
    prior_of,
    segments_of,
)
from cryobox.reference.images import (
    background_mask,
    crop_matrix,
    extract,
    fourier_crop,
    lowpass,
    normalize,
    pad_with_mean,
)
from cryobox.reference.masks import bad_part, has_label, label_at, touches
from cryobox.reference.measuring import background_levels, measures, saturated_part
from cryobox.reference.noise import free_places, noise_boxes
from cryobox.reference.repair import hot_pixel_levels, repair_hot_pixels
from cryobox.reference.spectrum import ctf_factors, filtered, moved

__all__ = [
    "EDGE",
    "NOT_FINITE",
    "NO_CONTRAST",
    "OK",
    "OUTSIDE",
    "Recentered",
    "Segment",
    "SubParticle",
    "across_steps",
    "adjusted_defocus",
    "background_levels",
    "background_mask",
    "bad_part",
    "crop_matrix",
    "ctf_factors",
    "depth_of_point",
    "dust_mask",
    "edge_status",
    "extract",
    "filtered",
    "fourier_crop",
    "free_places",
    "gaussian",
    "has_label",
    "hot_pixel_levels",
    "label_at",
    "lowpass",
    "measures",
    "middle_of",
    "moved",
    "noise_boxes",
    "noise_key",
    "normalize",
    "pad_with_mean",
    "point_in_image",
    "prior_of",
    "recenter",
    "repair_hot_pixels",
    "replace_dust",
    "saturated_part",
    "segments_of",
    "subparticles",
    "symmetry_group",
    "touches",
    "tube_mask",
    "view_of",
    "window",
    "without_neighbors",
]
