"""The names that options of recipes once had: plans, records and checkpoints that use them are still read."""


def current_options(recipe: dict) -> dict:
    """The options of a recipe, old names and values replaced by today's; today's stay as they are.

    Raises:
        ValueError: when one is there under both names.
    """
    options = dict(recipe)
    if "smallest_view" in options:
        if "smallest_crop" in options:
            raise ValueError("the recipe has smallest_crop and smallest_view, its old name; keep smallest_crop")
        options["smallest_crop"] = options.pop("smallest_view")
    if isinstance(options.get("flip"), bool):  # whether half of the images are mirrored
        options["flip"] = 0.5 if options["flip"] else 0.0
    if "token_labeling" in options:  # whether token_weight counts
        weight = options.get("token_weight", 0.5)
        options["token_weight"] = weight if options.pop("token_labeling") else 0.0
    return options


def current_identity(identity: dict) -> dict:
    """What a checkpoint says that it belongs to, in today's form: `recipe`, `data_hash` and `test_hash`, perhaps more.

    Runs on ImageNet once had a recipe of another kind, with the model in it.
    """
    options = current_options(identity["recipe"])
    if "train" not in identity:
        return {**identity, "recipe": options}
    of_its_kind = {
        "images_from": "files", "schedule": "cosine-by-epoch", "ema_warmup": False, "class_from_maps": True,
    }  # fmt: skip
    return {"recipe": {**options, **of_its_kind}, "data_hash": identity["train"], "test_hash": identity["val"]}
