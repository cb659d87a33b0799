"""The attacks on a sandbox, as a table of values; each is a function whose source is what runs inside."""

from tci.doctor.attacks import calls, files, limits, neighbours, network, processes, uploads
from tci.doctor.attacks.attack import Attack, attack_of, plant_code

ATTACKS: tuple[Attack, ...] = (
    *(
        attack_of(module, function)
        for module in (files, processes, calls, network, neighbours, limits)
        for function in module.ATTACKS
    ),
    attack_of(uploads, uploads.links_of_uploads, uploads=uploads.UPLOADS, before=uploads.plant_links),
)
"""Every attack, by theme."""

BY_NAME = {attack.name: attack for attack in ATTACKS}

__all__ = ["ATTACKS", "BY_NAME", "Attack", "plant_code"]
