"""Weather of a drive: the recorded parameters and the lighting they give."""

import math

import numpy as np

from thinktwice.minitown.world.scene import Lighting


def draw_weather(number: int, index: int) -> dict[str, float]:
    """Return the ten weather parameters, a function of the town's number and the weather index."""
    rng = np.random.default_rng([20232, number, index])
    cloudiness = float(rng.choice([5.0, 30.0, 60.0, 90.0]))
    return {
        'cloudiness': cloudiness,
        'precipitation': 0.0,
        'precipitation_deposits': 0.0,
        'wind_intensity': float(np.round(rng.uniform(0, 30), 1)),
        'sun_azimuth_angle': float(np.round(rng.uniform(0, 360), 1)),
        'sun_altitude_angle': float(np.round(rng.uniform(18, 80), 1)),
        'fog_density': float(rng.choice([0.0, 5.0, 15.0])),
        'fog_distance': 0.0,
        'wetness': 0.0,
        'fog_falloff': 0.2,
    }


def make_lighting(weather: dict[str, float]) -> Lighting:
    """Return sun, haze and sky for weather parameters."""
    azimuth = math.radians(weather['sun_azimuth_angle'])
    altitude = math.radians(weather['sun_altitude_angle'])
    clouds = weather['cloudiness'] / 100
    # Light of a low sun is warmer and weaker.
    height = math.sin(altitude)
    sky = (
        np.array([92.0, 142.0, 212.0]) * (1 - 0.75 * clouds) + np.array([150.0, 156.0, 164.0]) * 0.75 * clouds
    )
    haze = np.array([206.0, 214.0, 222.0]) - np.array([-14.0, 4.0, 24.0]) * (1 - height) - 14.0 * clouds
    return Lighting(
        sun=(
            math.cos(altitude) * math.cos(azimuth),
            math.cos(altitude) * math.sin(azimuth),
            math.sin(altitude),
        ),
        ambient=0.42 + 0.22 * clouds + 0.1 * height,
        direct=(0.35 + 0.3 * height) * (1 - 0.8 * clouds),
        haze=0.0012 + 0.0004 * weather['fog_density'],
        haze_color=(float(haze[0]), float(haze[1]), float(haze[2])),
        sky_color=(float(sky[0]), float(sky[1]), float(sky[2])),
    )
