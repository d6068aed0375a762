"""The command line, `retinex`. Each command imports what it needs, so that `retinex --help` answers at once."""

import argparse
import importlib
import json
import os
import sys
import warnings
from pathlib import Path

MAX_PIXELS = {"default": 250_000_000, "type": int, "metavar": "N", "help": "refuse larger images (default: %(default)s)"}
WEIGHTS = {"default": "natural", "metavar": "NAME-or-PATH", "help": "shipped weights or a .keras file (default: %(default)s)"}
DENOISE = {"type": float, "metavar": "STRENGTH", "help": "of denoising, by default the weights' own; 0 for none (paper)"}


def main(arguments=None):
    """Runs a command; returns the exit code: 0, 1 if some files of a folder were bad, 2 after an error, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    command = options.__dict__.pop("command")
    tensorflow = _import_tensorflow()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata, which do not matter
            return command(**vars(options)) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"retinex: {error}", file=sys.stderr)
        return 2
    except tensorflow.errors.OpError as error:
        print(f"retinex: TensorFlow: {error.message.splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("retinex: stopped", file=sys.stderr)
        return 130


def _import_tensorflow():
    """Imports and returns TensorFlow, without what its libraries print as they load, which no setting of theirs silences."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what they print later: that there is no GPU
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        return importlib.import_module("tensorflow")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def train(workers, index, **options):
    import tensorflow as tf

    from retinex_keras.train import Workers, train_retinexnet

    if workers:
        workers = workers.split(",")
        if index is None or not 0 <= index < len(workers):
            raise ValueError(f"--index says which of the {len(workers)} workers this is, from 0. Received {index}.")
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    if os.environ.get("TF_CONFIG"):
        strategy = Workers()
    elif len(tf.config.list_physical_devices("GPU")) > 1:
        strategy = tf.distribute.MirroredStrategy()
    else:
        strategy = None
    train_retinexnet(strategy=strategy, **options)


def enhance(image, out, weights, denoise, force, quality, max_pixels, cluster):
    from retinex_keras.images import check_writable, read_photo, write_image
    from retinex_keras.inference import enhance, enhance_folder, load_pretrained

    if image.is_dir():
        options = {"force": force, "quality": quality, "max_pixels": max_pixels}
        if cluster:
            from retinex_keras.cluster import enhance_folder as enhance_on_cluster

            made, existing, bad = enhance_on_cluster(image, out, cluster, weights, denoise, **options)
        else:
            made, existing, bad = enhance_folder(image, out, load_pretrained(weights, denoise), **options)
        print(f"enhanced: {len(made)} images into {out}; {len(existing)} were there already, {len(bad)} are bad")
        for path, reason in bad:
            print(f"retinex: {reason if str(path) in reason else f'{path}: {reason}'}", file=sys.stderr)
        return 1 if bad else 0
    check_writable(out, quality)
    if out.exists() and image.exists() and out.samefile(image):
        raise ValueError(f"{out} is the input; inputs are never overwritten, so give the result another name.")
    photo, extras = read_photo(image, max_pixels)
    check_writable(out, quality, photo.shape[:2])
    write_image(out, enhance(photo, load_pretrained(weights, denoise)), extras, quality)
    print(f"enhanced: {out}")


def decompose(image, out, weights, denoise, max_pixels):
    from retinex_keras.images import read_image, write_image
    from retinex_keras.inference import decompose, load_pretrained

    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the pictures.")
    pictures = decompose(read_image(image, max_pixels), load_pretrained(weights, denoise))
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        path = out / f"{image.stem}_{name}.png"
        write_image(path, picture)
        print(f"{name.replace('_', ' ')}: {path}")


def evaluate(low, high, weights, denoise, results, format):
    from retinex_keras.evaluate import report, score_pairs, score_results
    from retinex_keras.inference import load_pretrained

    rows = score_results(results, high) if results else score_pairs(low, high, load_pretrained(weights, denoise))
    strength = "" if denoise is None else f", denoised with strength {denoise:g},"
    source = f"Pictures of {results}" if results else f"Weights {weights}{strength} on {low}, {os.cpu_count()} processors"
    print(report(rows, f"{source}; references {high}.", format))


def benchmark(weights, sizes, runs):
    from retinex_keras.benchmark import benchmark
    from retinex_keras.inference import load_pretrained

    if runs < 1:
        raise ValueError(f"A median takes at least one run. Received --runs {runs}.")
    benchmark({name: load_pretrained(name) for name in weights}, sizes, runs)


def convert(decom, enhance, out):
    from retinex_keras.convert import convert_checkpoint
    from retinex_keras.images import whole_file

    if out.suffix != ".keras":
        raise ValueError(f"Keras models end in .keras. Received {str(out)!r}: name the output {out.stem}.keras.")
    model, notes = convert_checkpoint(decom, enhance)
    with whole_file(out) as temporary:
        model.save(temporary)
    print(*notes, f"{type(model).__name__}: {out}", sep="\n")


def _parser():
    parser = argparse.ArgumentParser("retinex", description="Photos taken in the dark, brightened.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, text):
        added = commands.add_parser(function.__name__, help=text, description=text)
        added.set_defaults(command=function)
        return added

    add = command(train, "Train both networks by the original recipe, or go on with a stopped run.").add_argument
    add("data", nargs="*", type=Path, help="folders of pairs, with subfolders low and high")
    add("--recipe", default="paper", choices=["paper", "natural"], help="networks and training (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    add("--validation", type=Path, metavar="DIR", help="folder of pairs to score now and then")
    add("--photos", type=Path, metavar="DIR", help="folder of well-lit photos, darkened while training")
    add("--weights", metavar="NAME-or-PATH", help="weights to begin with (default: new networks)")
    add("--epochs", type=int, default=100, help="of each phase (default: %(default)s)")
    add("--batch-size", type=int, help="patches a step (default: 16; natural: 8)")
    add("--patch-size", type=int, help="side in pixels (default: 48, with --whole 128; natural: 160)")
    add("--whole", action="store_true", help="whole images, resized to squares, instead of patches")
    add("--learning-rate", type=float, default=1e-3, help="of Adam (default: %(default)s)")
    add("--decay-epoch", type=int, help="a tenth of the learning rate from here on (default: a fifth of the epochs)")
    add("--seed", type=int, default=0, help="of weights, order and patches (default: %(default)s)")
    add("--every", type=int, default=20, help="epochs between validations and samples (default: %(default)s)")
    add("--filters", type=int, help="channels of the inner layers of new networks (default: 64; natural: 32)")
    add("--cache", type=Path, metavar="DIR", help="keep decoded images here instead of in memory")
    add("--workers", metavar="HOST:PORT,...", help="all machines that train together (default: what TF_CONFIG says)")
    add("--index", type=int, metavar="N", help="which of the workers this process is, from 0; the first writes")

    add = command(enhance, "Brighten a photo, or all photos of a folder and its subfolders.").add_argument
    add("image", type=Path, help="a photo or a folder")
    add("out", type=Path, help="the picture to write, whose suffix decides the format; for a folder, a folder")
    add("--weights", **WEIGHTS)
    add("--denoise", **DENOISE)
    add("--force", action="store_true", help="make results of a folder again that exist")
    add("--cluster", metavar="ADDRESS", help="of the Ray cluster that enhances a folder, or local")
    add("--quality", type=int, default=95, metavar="1-100", help="of JPEG and WebP (default: %(default)s)")
    add("--max-pixels", **MAX_PIXELS)

    add = command(decompose, "Brighten a photo and also write its reflectance and illumination.").add_argument
    add("image", type=Path)
    add("out", type=Path, help="folder for the pictures")
    add("--weights", **WEIGHTS)
    add("--denoise", **DENOISE)
    add("--max-pixels", **MAX_PIXELS)

    add = command(evaluate, "Score a model on pairs: PSNR and SSIM, a row an image.").add_argument
    add("low", type=Path, help="folder of dark images")
    add("high", type=Path, help="folder of their references, of the same stems")
    add("--weights", **WEIGHTS)
    add("--denoise", **DENOISE)
    add("--results", type=Path, metavar="DIR", help="score these pictures, made by another program, instead of the model's")
    add("--format", choices=["text", "csv", "json"], default="text", help="of what is printed (default: %(default)s)")

    add = command(benchmark, "Measure the speed of enhancing and training on this machine.").add_argument
    sizes = ["400x600", "1080p", "12 MP"]
    add("--sizes", nargs="+", default=sizes, choices=sizes, metavar="SIZE", help="of images (default: %(default)s)")
    add("--runs", type=int, default=5, help="the median of so many is printed (default: %(default)s)")
    add("--weights", **WEIGHTS | {"nargs": "+", "default": [WEIGHTS["default"]]})

    add = command(convert, "Convert the original's TensorFlow 1 checkpoints.").add_argument
    add("--decom", type=Path, metavar="DIR", help="folder of Decom-Net's checkpoint")
    add("--enhance", type=Path, metavar="DIR", help="folder of Enhance-Net's checkpoint, the original's Relight")
    add("out", type=Path, metavar="OUT.keras")
    return parser


if __name__ == "__main__":
    sys.exit(main())
