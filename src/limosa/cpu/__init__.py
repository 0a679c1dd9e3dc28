"""CPU flags as bit strings: registry, masks, compatibility, baselines, pools."""
