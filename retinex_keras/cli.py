"""The command line, `retinex`. Each command imports what it needs, so that `retinex --help` answers at once."""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

from retinex_keras.engines import SUFFIXES, import_keras
from retinex_keras.imaging import MAX_PIXELS, SERVED_PIXELS
from retinex_keras.recipes import DEFAULT_RECIPE, DEFAULT_WEIGHTS

LIMIT = {"default": MAX_PIXELS, "type": int, "metavar": "N", "help": "refuse larger images (default: %(default)s)"}
RECIPE = {"metavar": "NAME", "help": "of the package, or module:attribute (default: %(default)s)"}
WEIGHTS = {"metavar": "NAME-or-PATH", "help": "shipped ones, or a .keras or .onnx file (default: %(default)s)"}


def main(arguments=None):
    """Runs a command; returns the exit code: 0, 1 if some files of a folder were bad, 2 after an error, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    command = options.__dict__.pop("command")
    try:
        if command in (train, benchmark, convert, export):
            import_keras()  # the others do it where they need it
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata, which do not matter
            return command(**vars(options)) or 0
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"retinex: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("retinex: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if "tensorflow" not in sys.modules or not isinstance(error, sys.modules["tensorflow"].errors.OpError):
            raise
        print(f"retinex: TensorFlow: {error.message.splitlines()[0]}", file=sys.stderr)
        return 2


def train(workers, index, **options):
    from retinex_keras.training.run import train_retinexnet

    if workers:
        workers = workers.split(",")
        if index is None or not 0 <= index < len(workers):
            raise ValueError(f"--index says which of the {len(workers)} workers this is, from 0. Received {index}.")
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    if os.environ.get("KERAS_BACKEND") != "jax":
        from retinex_keras.training.distribution import find_strategy

        options["strategy"] = find_strategy()
    train_retinexnet(**options)


def enhance(image, out, weights, denoise, engine, sheet, force, quality, max_pixels, cluster):
    from retinex_keras.folders.plan import is_address
    from retinex_keras.folders.run import enhance_folder
    from retinex_keras.imaging.read import read_photo
    from retinex_keras.imaging.write import check_is_not_input, check_writable, write_image
    from retinex_keras.inference import enhance, load_pretrained

    options = {"force": force, "quality": quality, "max_pixels": max_pixels}
    if cluster:
        from retinex_keras.folders.cluster import enhance_on_cluster

        if sheet or Path(image).is_file():
            raise ValueError("A cluster takes folders: for one photo leave --cluster out, for a folder --sheet.")
        return _report(out, *enhance_on_cluster(image, out, cluster, weights, denoise, engine, **options))
    if is_address(image) or is_address(out):
        raise ValueError(f"Addresses are for clusters. Received {image} and {out}: name files, or add --cluster local.")
    image, out = Path(image), Path(out)
    if image.is_dir():
        if sheet:
            raise ValueError(f"A sheet shows one photo, and {image} is a folder: leave --sheet out.")
        return _report(out, *enhance_folder(image, out, load_pretrained(weights, denoise, engine), **options))
    for path in [out, sheet] if sheet else [out]:
        check_writable(path, quality)
        check_is_not_input(path, image)
    photo, extras = read_photo(image, max_pixels)
    check_writable(out, quality, photo.shape[:2])
    picture = enhance(photo, load_pretrained(weights, denoise, engine))
    write_image(out, picture, extras, quality)
    print(f"enhanced: {out}")
    if sheet:
        from retinex_keras.evaluation.plots import before_after

        before_after(photo, picture, path=sheet)
        print(f"sheet: {sheet}")


def _report(out, made, existing, bad):
    print(f"enhanced: {len(made)} images into {out}; {len(existing)} were there already, {len(bad)} are bad")
    for path, reason in bad:
        print(f"retinex: {reason if str(path) in reason else f'{path}: {reason}'}", file=sys.stderr)
    return 1 if bad else 0


def decompose(image, out, weights, denoise, engine, max_pixels):
    from retinex_keras.imaging.read import read_image
    from retinex_keras.imaging.write import write_image
    from retinex_keras.inference import decompose, load_pretrained

    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the pictures.")
    pictures = decompose(read_image(image, max_pixels), load_pretrained(weights, denoise, engine))
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        path = out / f"{image.stem}_{name}.png"
        write_image(path, picture)
        print(f"{name.replace('_', ' ')}: {path}")


def evaluate(low, high, weights, denoise, engine, results, format):
    from retinex_keras.evaluation.scores import report, score_pairs, score_results
    from retinex_keras.inference import load_pretrained

    rows = score_results(results, high) if results else score_pairs(low, high, load_pretrained(weights, denoise, engine))
    strength = "" if denoise is None else f", denoised with strength {denoise:g},"
    source = f"Pictures of {results}" if results else f"Weights {weights}{strength} on {low}, {os.cpu_count()} processors"
    print(report(rows, f"{source}; references {high}.", format))


def compare(low, high, methods, weights, engine, sheet, format):
    import functools

    from retinex_keras.engines import choose_engine, shipped_weights
    from retinex_keras.evaluation.baselines import METHODS
    from retinex_keras.evaluation.scores import compare, report
    from retinex_keras.imaging.pixels import to_uint8
    from retinex_keras.imaging.write import check_writable
    from retinex_keras.inference import enhance, load_pretrained

    methods = METHODS if methods is None else methods
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"There is no method {unknown[0]!r}; choose from {', '.join(METHODS)}.")
    if sheet:
        check_writable(sheet)

    chosen = {name: lambda image, method=METHODS[name]: to_uint8(method(image)["enhanced"]) for name in methods}
    weights = shipped_weights(choose_engine(engine=engine)) if weights is None else weights
    chosen |= {name: functools.partial(enhance, weights=load_pretrained(name, engine=engine)) for name in weights}
    rows = compare(low, high, chosen, sheet)
    print(report(rows, f"Means over the pairs of {low} and {high}, {os.cpu_count()} processors.", format))


def benchmark(weights, recipe, sizes, runs):
    from retinex_keras.evaluation.benchmark import SIZES, benchmark
    from retinex_keras.inference import load_pretrained
    from retinex_keras.recipes import find_recipe, shipped_recipes

    if runs < 1:
        raise ValueError(f"A median takes at least one run. Received --runs {runs}.")
    recipes = shipped_recipes().values() if recipe is None else [find_recipe(name) for name in recipe]
    benchmark({name: load_pretrained(name, engine="tensorflow") for name in weights}, recipes, sizes or list(SIZES), runs)


def convert(decom, enhance, out):
    from retinex_keras.imaging.atomic import atomic_path
    from retinex_keras.recipes.tf1_checkpoint import convert_checkpoint

    if out.suffix != ".keras":
        raise ValueError(f"Keras models end in .keras. Received {str(out)!r}: name the output {out.stem}.keras.")
    model, notes = convert_checkpoint(decom, enhance)
    with atomic_path(out) as temporary:
        model.save(temporary)
    print(*notes, f"{type(model).__name__}: {out}", sep="\n")


def export(out, weights, denoise, format, version, max_pixels):
    from retinex_keras.inference import load_pretrained
    from retinex_keras.serving.export import export_onnx, export_savedmodel

    model = load_pretrained(weights, denoise, engine="tensorflow")
    if (format or ("onnx" if out.suffix == SUFFIXES["onnx"] else "savedmodel")) == "savedmodel":
        out = export_savedmodel(model, out, version, max_pixels)
    else:
        export_onnx(model, out)
    print(f"exported: {out}")


def request(url, image, out, version, timeout, at_once, force, quality):
    from retinex_keras.serving.client import connect, request_folder, request_image

    if image and not out:
        raise ValueError(f"Received {image} alone: name the picture to write, or the folder, after it.")
    server = connect(url, version, timeout)
    if not image:
        print(*(f"version {version}: {state}" for version, state in server.status().items()), sep="\n")
    elif image.is_dir():
        return _report(out, *request_folder(server, image, out, force, quality, at_once))
    else:
        request_image(server, image, out, quality)
        print(f"enhanced: {out}")


def app(no_browser, **options):
    from retinex_keras.app import serve

    serve(browser=not no_browser, **options)


def _parser():
    parser = argparse.ArgumentParser("retinex", description="Photos taken in the dark, brightened.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, text, *parents):
        added = commands.add_parser(function.__name__, help=text, description=text, parents=parents)
        added.set_defaults(command=function)
        return added.add_argument

    def shared():
        options = argparse.ArgumentParser(add_help=False)
        return options, options.add_argument

    pairs, add = shared()
    add("low", type=Path, help="folder of dark images")
    add("high", type=Path, help="folder of their references, of the same stems")
    add("--format", choices=["text", "csv", "json"], default="text", help="of what is printed (default: %(default)s)")

    model, add = shared()
    add("--weights", **WEIGHTS, default=DEFAULT_WEIGHTS)
    add("--denoise", type=float, metavar="STRENGTH", help="of denoising, by default the weights' own; 0 for none")

    engine, add = shared()
    add("--engine", choices=list(SUFFIXES), help="for shipped weights (default: tensorflow, where it is installed)")

    results, add = shared()
    add("--force", action="store_true", help="make results of a folder again that exist")
    add("--quality", type=int, default=95, metavar="1-100", help="of JPEG and WebP (default: %(default)s)")

    add = command(train, "Train the networks of a recipe, or go on with a stopped run.")
    add("data", nargs="*", type=Path, help="folders of pairs, with subfolders low and high")
    add("--recipe", **RECIPE, default=DEFAULT_RECIPE)
    add("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    add("--validation", type=Path, metavar="DIR", help="folder of pairs to score now and then")
    add("--photos", type=Path, metavar="DIR", help="folder of well-lit photos, darkened while training")
    add("--weights", metavar="NAME-or-PATH", help="weights to begin with (default: new networks)")
    add("--epochs", type=int, default=100, help="of each phase (default: %(default)s)")
    add("--batch-size", type=int, help="patches a step (default: the recipe's)")
    add("--patch-size", type=int, help="side in pixels (default: the recipe's; with --whole 128)")
    add("--whole", action="store_true", help="whole images, resized to squares, instead of patches")
    add("--learning-rate", type=float, help="of the optimizer (default: the recipe's)")
    add("--decay-epoch", type=int, help="a tenth of the learning rate from here on (default: a fifth of the epochs)")
    add("--seed", type=int, default=0, help="of weights, order and patches (default: %(default)s)")
    add("--every", type=int, default=20, help="epochs between validations and samples (default: %(default)s)")
    add("--filters", type=int, help="channels of the inner layers of new networks (default: the recipe's)")
    add("--cache", type=Path, metavar="DIR", help="keep decoded images here instead of in memory")
    add("--workers", metavar="HOST:PORT,...", help="all machines that train together (default: what TF_CONFIG says)")
    add("--index", type=int, metavar="N", help="which of the workers this process is, from 0; the first writes")

    add = command(enhance, "Brighten a photo, or all photos of a folder and its subfolders.", model, engine, results)
    add("image", help="a photo or a folder; with --cluster a folder or its address, as s3://bucket/photos")
    add("out", help="the picture to write, whose suffix decides the format; for a folder, a folder or its address")
    add("--sheet", type=Path, metavar="FILE", help="also write the photo before and after, side by side")
    add("--max-pixels", **LIMIT)
    add("--cluster", metavar="ADDRESS", help="of the Ray cluster that enhances a folder, or local")

    add = command(decompose, "Brighten a photo and also write its reflectance and illumination.", model, engine)
    add("image", type=Path)
    add("out", type=Path, help="folder for the pictures")
    add("--max-pixels", **LIMIT)

    add = command(evaluate, "Score a model on pairs: PSNR and SSIM, a row an image.", pairs, model, engine)
    add("--results", type=Path, metavar="DIR", help="score these pictures, made by another program, instead of the model's")

    add = command(compare, "Score several methods on the same pairs, a row a method.", pairs, engine)
    add("--methods", nargs="*", metavar="NAME", help="of those without learning (default: all)")
    add("--weights", nargs="*", metavar="NAME-or-PATH", help="of networks (default: all shipped ones)")
    add("--sheet", type=Path, metavar="OUT.png", help="write a sheet of pictures: a row a scene, a column a method")

    add = command(benchmark, "Measure the speed of enhancing and training on this machine.")
    add("--sizes", nargs="+", metavar="SIZE", help="of images: 400x600, 1080p, '12 MP' (default: all)")
    add("--runs", type=int, default=5, help="the median of so many is printed (default: %(default)s)")
    add("--weights", **WEIGHTS, nargs="+", default=[DEFAULT_WEIGHTS])
    add("--recipe", **RECIPE | {"nargs": "*", "help": "whose training is measured (default: all of the package)"})

    add = command(convert, "Convert the original's TensorFlow 1 checkpoints.")
    add("--decom", type=Path, metavar="DIR", help="folder of Decom-Net's checkpoint")
    add("--enhance", type=Path, metavar="DIR", help="folder of Enhance-Net's checkpoint, the original's Relight")
    add("out", type=Path, metavar="OUT.keras")

    add = command(export, "Write a model for TensorFlow Serving, with the server's settings beside it.", model)
    add("out", type=Path, help="folder of the versions that the server polls; of ONNX, the file")
    add("--format", choices=["savedmodel", "onnx"], help="default: by the suffix of the file")
    add("--version", type=int, metavar="N", help="a positive number (default: the next one)")
    add("--max-pixels", **LIMIT | {"default": SERVED_PIXELS})

    add = command(request, "Let a server brighten a photo or a folder of them; without one, ask for its versions.", results)
    add("url", help="http://host:8501 for REST, grpc://host:8500 for gRPC")
    add("image", type=Path, nargs="?", help="a photo or a folder")
    add("out", type=Path, nargs="?", help="the picture to write, whose suffix decides the format; for a folder, a folder")
    add("--version", type=int, metavar="N", help="of the model (default: the server's latest)")
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="for each image (default: %(default)g)")
    add("--at-once", type=int, default=4, metavar="N", help="images of a folder under way at a time (default: %(default)s)")

    add = command(app, "Open a page in the browser: drop a photo, turn the dials, download the result.", engine)
    add("folder", type=Path, nargs="?", help="of photos to pick from, or to brighten together")
    add("--out", type=Path, metavar="DIR", help="for the results of the whole folder (default: beside it, FOLDER_bright)")
    add("--weights", **WEIGHTS, default=DEFAULT_WEIGHTS)
    add("--port", type=int, metavar="N", help="of the address on this machine (default: a free one from 7860 on)")
    add("--no-browser", action="store_true", help="print the address only")
    add("--max-pixels", **LIMIT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
