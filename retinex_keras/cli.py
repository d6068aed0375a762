"""The command line, `retinex`. Each command imports what it needs, so that `retinex --help` answers at once."""

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import signal
import sys
import threading
import warnings
from pathlib import Path

from retinex_keras import __version__, engines
from retinex_keras.engines import SUFFIXES, check_backend, choose_engine, import_keras, locate_weights, shipped_weights
from retinex_keras.imaging import MAX_PIXELS, SERVED_PIXELS, is_address
from retinex_keras.recipes import DEFAULT, check_recipe

STANDARD = "-"  # the name of standard input and output
REASONS = "bad", "skipped"  # the lists of a report that come with reasons


def main(arguments=None):
    """Runs a command; returns the exit code: 0, 1 if photos of a folder were not made, 2 after an error, 130 after Ctrl-C."""
    with _process():
        try:
            parser = _parser()
            options = vars(parser.parse_args(arguments))
            command = options.pop("command")
            if command is None:
                parser.print_help(sys.stderr)
                return 2
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata, which do not matter
                warnings.showwarning = lambda message, *_: print(f"retinex: {message}", file=sys.stderr)
                code = command(**options) or 0
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return _fail("stopped", 130)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return _fail(f"{place}{error.strerror}." if error.strerror else error)
        except (ValueError, FloatingPointError, ImportError) as error:
            return _fail(error)
        except MemoryError as error:
            return _fail(f"There is too little memory: {str(error) or 'the system gives no more'}.")
        except Exception as error:
            if "tensorflow" not in sys.modules or not isinstance(error, sys.modules["tensorflow"].errors.OpError):
                raise
            return _fail(f"TensorFlow: {error.message.splitlines()[0]}")


def _fail(message, code=2):
    print(f"retinex: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _process():
    """The manners of a process, for the time of a command.

    Where a standard stream is closed, no file gets its number. A reader who leaves ends no work, and neither does a name that
    cannot be printed. While TensorFlow loads, a terminal is told.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number, this one
    before = sys.stdout, sys.stderr, engines.loading
    sys.stdout, sys.stderr = (_lasting(stream) for stream in before[:2])
    with open(os.dup(2), "wb", 0) as terminal:
        engines.loading = functools.partial(_loading, terminal)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):
                    stream.flush()
            sys.stdout, sys.stderr, engines.loading = before


class _Output(io.FileIO):
    """A standard stream that is dropped once it cannot be written; only standard output says so, if it has a reader."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                raise
            return len(data)


def _lasting(stream):
    """A standard stream as `_process` wants it; one that is not the process's own stays as it is."""
    if stream is None:
        return open(os.devnull, "w")
    if stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    output = io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
    by_line = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(output, stream.encoding, "backslashreplace", line_buffering=by_line)


@contextlib.contextmanager
def _loading(terminal):
    """In it TensorFlow or weights are loaded. After a second a terminal is told.

    Ctrl-C ends the process at once: its exception would be swallowed in there, and no work has begun.
    """

    def stop(*_):
        with contextlib.suppress(OSError):
            terminal.write(b"retinex: stopped\n")
        os._exit(130)

    timer = threading.Timer(1.0, terminal.write, (b"loading TensorFlow ...\n",))
    if terminal.isatty():
        timer.start()
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else nobody is to stop it, or somebody else does
    if ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        timer.cancel()
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Parser(argparse.ArgumentParser):
    """It refuses in one sentence."""

    def error(self, message):
        raise ValueError(f"{message}; see `{self.prog} --help`.")


def _given(kind, text):
    """A path or a name, which is not empty: Python would take the working directory for it. A path is one of this machine."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, as a variable of the shell that is not set")
    if kind is not str and text == STANDARD:
        raise argparse.ArgumentTypeError("-, for a stream, is known to `retinex enhance` alone; name a file or folder")
    if kind is not str and is_address(text):
        raise argparse.ArgumentTypeError(f"expected a path. Received {text}: addresses are for `retinex enhance --cluster`")
    return kind(text)


def _number(kind, expected, fits):
    """A type of arguments: numbers of a kind that fit."""

    def number(text):
        with contextlib.suppress(ValueError):
            if fits(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}. Received {text!r}")

    return number


COUNT = _number(int, "a whole number, 1 or larger", lambda value: 1 <= value < 2**63)
INDEX = _number(int, "a whole number, 0 or larger", lambda value: 0 <= value < 2**31)
PERCENT = _number(int, "a whole number from 1 to 100", lambda value: 1 <= value <= 100)
POSITIVE = _number(float, "a number above 0", lambda value: 0 < value < float("inf"))
NUMBER = _number(float, "a number", lambda value: abs(value) < float("inf"))
STRENGTH = _number(float, "0, for none, or a larger number", lambda value: 0 <= value < float("inf"))
HIGH = {"type": Path, "help": "folder of their references, of the same names; the suffixes may differ"}
LIMIT = {"default": MAX_PIXELS, "type": COUNT, "metavar": "N", "help": "refuse images of more pixels (default: %(default)s)"}
RECIPE = {"metavar": "NAME", "help": "a recipe of the package, or module:attribute (default: %(default)s)"}
WEIGHTS = {
    "metavar": "NAME-or-PATH",
    "help": f"{', '.join(shipped_weights())}, or a .keras or .onnx file (default: %(default)s)",
}


def train(workers, index, **options):
    from retinex_keras.data.pairs import find_pairs, find_scenes

    if index is not None and not workers:
        raise ValueError("--index is one of --workers: name them too.")
    if workers:
        workers = workers.split(",")
        if index is None or index >= len(workers):
            raise ValueError(f"--index says which of the {len(workers)} workers this is, from 0. Received {index}.")
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    if os.environ.get("TF_CONFIG") and os.environ.get("KERAS_BACKEND") == "jax":
        raise ValueError("Several machines train together only on TensorFlow: unset KERAS_BACKEND, or TF_CONFIG and --workers.")
    # Mistakes are said before TensorFlow is imported.
    check_recipe(options["recipe"])
    if not (options["out"] / "run.json").exists():  # a run that is finished needs no images any more
        find_scenes(options["data"], options["photos"])
    if options["validation"]:
        find_pairs(options["validation"] / "low", options["validation"] / "high")
    if options["weights"]:
        locate_weights(options["weights"], "tensorflow")
    import_keras()
    from retinex_keras.training.run import train_retinexnet
    from retinex_keras.training.state import FINAL

    if os.environ.get("KERAS_BACKEND") != "jax" and not (options["out"] / FINAL).exists():  # else nobody need wait for others
        from retinex_keras.training.distribution import find_strategy

        options["strategy"] = find_strategy()
    train_retinexnet(**options)


def enhance(image, out, weights, denoise, engine, sheet, force, quality, max_pixels, cluster, as_json, **dials):
    from retinex_keras.dials import Dials, check_dials
    from retinex_keras.folders.plan import plan_folder, plan_photos
    from retinex_keras.folders.run import enhance_files, run_plan
    from retinex_keras.inference import enhance, load_pretrained

    Dials(**dials).check()
    options = {"force": force, "quality": quality, "max_pixels": max_pixels, **dials}
    is_folder = len(image) == 1 and _is_folder(image[0])
    if out == STANDARD and (len(image) > 1 or is_folder or cluster):
        raise ValueError("Standard output, -, is for one picture: name a folder for the results of several photos.")
    if cluster:
        from retinex_keras.folders.cluster import enhance_on_cluster

        if sheet or len(image) > 1 or Path(image[0]).is_file():
            raise ValueError("A cluster takes one folder: for photos leave --cluster out, for a folder --sheet.")
        _check_is_folder(out)
        return _report(out, enhance_on_cluster(image[0], out, cluster, weights, denoise, engine, **options), as_json)
    if address := next(filter(is_address, (*image, out)), None):
        raise ValueError(f"Addresses are for clusters. Received {address}: name files, or add --cluster local.")
    locate_weights(weights, engine)  # says now what is wrong with them, before TensorFlow is imported
    load = functools.partial(load_pretrained, weights, denoise, engine)
    if len(image) == 1 and not is_folder and not _is_folder(out):
        return _enhance_photo(image[0], out, load, sheet, force, quality, max_pixels, as_json, dials)

    if sheet:
        raise ValueError("A sheet shows one photo: name one photo and the picture to write, or leave --sheet out.")
    if STANDARD in image:
        raise ValueError("Standard input, -, is one photo without a name: name the picture to write, and no other photo.")
    _check_is_folder(out)
    plan = plan_folder(image[0], out, force) if is_folder else plan_photos(image, out, force)
    brighten = None
    if plan.targets:
        model = load()
        check_dials(model, **dials)
        brighten = functools.partial(enhance, model=model, **dials)
    return _report(out, run_plan(plan, lambda plan: enhance_files(plan, brighten, quality, max_pixels)), as_json)


def _check_is_folder(out):
    from retinex_keras.imaging.write import WRITTEN

    if Path(out).suffix.lower() in WRITTEN and not _is_folder(out):
        raise ValueError(f"{out} is the name of a picture. Expected that of a folder, for the results of several photos.")


def _enhance_photo(image, out, load, sheet, force, quality, max_pixels, as_json, dials):
    from retinex_keras.folders.run import Report
    from retinex_keras.imaging.read import read_photo
    from retinex_keras.imaging.write import check_sides, encode_png, write_image
    from retinex_keras.inference import enhance

    if image != STANDARD and not Path(image).exists():
        raise FileNotFoundError(f"{image} is not a file; check the path.")
    if out == STANDARD and as_json:
        raise ValueError("Standard output, -, is for the picture: leave --json out, or name a file.")
    if out == STANDARD and sys.stdout.isatty():
        raise ValueError("A picture is not for a terminal: send standard output to a program or a file, or name the picture.")
    written = [Path(path) for path in (out, sheet) if path not in (STANDARD, None)]
    for path in written:
        _check_target(path, "/dev/stdin" if image == STANDARD else image, force, quality)
    if len({path.resolve() for path in written}) < len(written):
        raise ValueError(f"--sheet and the picture are both {sheet}; give the sheet another name.")
    if sheet:
        from retinex_keras.evaluation.plots import before_after
    photo, extras = read_photo(_standard_input() if image == STANDARD else image, max_pixels)
    if out != STANDARD:
        check_sides(out, photo.shape[:2])
    picture = enhance(photo, load(), **dials)
    if out == STANDARD:
        sys.stdout.buffer.write(encode_png(picture, extras))
    else:
        write_image(out, picture, extras, quality)
    if sheet:
        before_after(photo, picture, path=sheet)
    if as_json:
        return _report(out, Report([Path(out)], [], [], []), as_json)
    if out != STANDARD:
        print(f"enhanced: {out}", *([f"sheet: {sheet}"] if sheet else []), sep="\n")


def _check_target(path, image, force, quality):
    """Raises an error if a picture that is made of an image cannot be written, or exists.

    The shell may have put a second photo in its place, for a *.
    """
    from retinex_keras.imaging.write import check_is_not_input, check_writable

    check_writable(path, quality)
    check_is_not_input(path, image)
    if not force and os.path.lexists(path):
        raise ValueError(f"{path} exists: add --force to write it again, or name another picture.")


def _is_folder(place):
    """Whether a place is a folder, or by a slash at its end is to be one."""
    return place != STANDARD and (place.endswith(("/", os.sep)) or Path(place).is_dir())


def _standard_input():
    """The file that is piped in."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError("There is no photo on standard input: pipe one in, as `retinex enhance - out.png < photo.jpg` does.")
    file = io.BytesIO(sys.stdin.buffer.read())
    file.name = "Standard input"  # for messages
    return file


def _report(out, report, as_json, done="enhanced"):
    """Prints what became of the photos of a folder; returns the exit code."""
    if as_json:
        reasons = {name: [{"image": str(path), "reason": reason} for path, reason in getattr(report, name)] for name in REASONS}
        print(json.dumps(report._asdict() | reasons, indent=1, default=str))
    else:
        counts = f"{_count(report.existing, 'was', 'were')} there already, {_count(report.bad, 'is', 'are')} bad"
        counts += f", {_count(report.skipped, 'is', 'are')} skipped" if report.skipped else ""
        counts += "; --force makes results again" if report.existing and not report.made else ""
        print(f"{done}: {_count(report.made, 'image', 'images')} into {out}; {counts}")
    for path, reason in report.bad:
        print(f"retinex: {reason if str(path) in reason else f'{path}: {reason}'}", file=sys.stderr)
    for path, reason in report.skipped:
        print(f"retinex: {path}: {reason}", file=sys.stderr)
    return 1 if report.bad or report.skipped else 0


def _count(items, one, more):
    return f"{len(items)} {one if len(items) == 1 else more}"


def decompose(image, out, weights, denoise, engine, max_pixels, **dials):
    from retinex_keras.dials import STEERED, Dials, check_dials
    from retinex_keras.folders.plan import plan_photos
    from retinex_keras.folders.run import run_plan
    from retinex_keras.imaging.read import read_image
    from retinex_keras.imaging.write import check_is_not_input, write_image
    from retinex_keras.inference import decompose, load_pretrained

    Dials(**dials).check()
    locate_weights(weights, engine)
    parts = "enhanced", *STEERED
    plan, lines = plan_photos(image, out, True, lambda name: _part_names(name, parts).values()), []

    def write_parts(plan):
        model = None
        for photo in plan.targets:
            try:
                pixels = read_image(photo, max_pixels)
            except (ValueError, OSError) as error:
                yield photo, str(error)
                continue
            if model is None:
                model = load_pretrained(weights, denoise, engine)
                check_dials(model, **dials)
            try:
                out.mkdir(parents=True, exist_ok=True)
                pictures = decompose(pixels, model, **dials)
                paths = {name: out / path for name, path in _part_names(photo, pictures).items()}
                for name, other in itertools.product(paths.keys() - parts, image):  # which the plan does not know
                    check_is_not_input(paths[name], other)
                for name, path in paths.items():
                    write_image(path, pictures[name])
                    lines.append(f"{name.replace('_', ' ')}: {path}")
                yield photo, None
            except (ValueError, OSError) as error:
                yield photo, str(error)

    report = run_plan(plan, write_parts)
    if len(image) == 1 and report.bad:
        raise ValueError(report.bad[0][1])
    for line in lines:
        print(line)
    return _report(out, report, False, "decomposed") if len(image) > 1 else 0


def _part_names(photo, parts):
    """The names of the pictures of a photo's parts, {part: name}."""
    return {part: f"{Path(photo).stem}_{part}.png" for part in parts}


def evaluate(low, high, weights, denoise, engine, results, lpips, oracle_brightness, format):
    from retinex_keras.data.pairs import find_images, find_pairs
    from retinex_keras.evaluation.scores import report, score_pairs, score_photos, score_results
    from retinex_keras.imaging.lpips import find_weights
    from retinex_keras.inference import load_pretrained

    if lpips and not high:
        raise ValueError(f"LPIPS compares with references. Received {low} alone: name their folder after it.")
    if oracle_brightness and (results or not high):
        raise ValueError("--oracle-brightness tells weights the references' brightness: name both folders, without --results.")
    if results and (weights, denoise, engine) != (DEFAULT, None, None):
        raise ValueError("--results are pictures that exist: leave --weights, --denoise and --engine out.")
    if lpips:
        find_weights()
    find_pairs(results or low, high) if high else find_images(results or low)  # says now what is wrong
    locate_weights(weights, engine)
    if results:
        rows, source = score_results(results, high, low, lpips), f"Pictures of {results}, made of {low}"
    else:
        model = load_pretrained(weights, denoise, engine)
        rows = score_pairs(low, high, model, lpips, oracle_brightness) if high else score_photos(low, model)
        strength = "" if denoise is None else f", denoised with strength {denoise:g},"
        oracle = ", told the references' mean luma," if oracle_brightness else ""
        source = f"Weights {weights}{strength}{oracle} on {low}, {os.cpu_count()} processors"
    print(report(rows, f"{source}; references {high}." if high else f"{source}.", format))


def compare(low, high, methods, weights, engine, sheet, lpips, format):
    from retinex_keras.data.pairs import find_pairs
    from retinex_keras.evaluation.baselines import METHODS
    from retinex_keras.evaluation.scores import compare, report
    from retinex_keras.imaging.lpips import find_weights
    from retinex_keras.imaging.pixels import to_uint8
    from retinex_keras.imaging.write import check_is_not_input, check_writable
    from retinex_keras.inference import enhance, load_pretrained

    methods = METHODS if methods is None else methods
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"There is no method {unknown[0]!r}; choose from {', '.join(METHODS)}.")
    if sheet:
        check_writable(sheet)
    if lpips:
        find_weights()

    chosen = {name: lambda image, method=METHODS[name]: to_uint8(method(image)["enhanced"]) for name in methods}
    weights = shipped_weights(choose_engine(engine=engine)) if weights is None else weights
    for path in itertools.chain(*find_pairs(low, high)):  # says now what is wrong, before TensorFlow is imported
        if sheet:
            check_is_not_input(sheet, path)
    for name in weights:
        locate_weights(name, engine)
    chosen |= {name: functools.partial(enhance, weights=load_pretrained(name, engine=engine)) for name in weights}
    rows = compare(low, high, chosen, sheet, lpips=lpips)
    print(report(rows, f"Means over the pairs of {low} and {high}, {os.cpu_count()} processors.", format))


def benchmark(weights, recipe, sizes, runs):
    for name in weights:
        locate_weights(name, "tensorflow")
    for name in recipe or ():
        check_recipe(name)
    import_keras()
    check_backend("A benchmark")
    from retinex_keras.evaluation.benchmark import SIZES, benchmark
    from retinex_keras.inference import load_pretrained
    from retinex_keras.recipes import find_recipe, shipped_recipes

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
    from retinex_keras.serving.targets import onnx_path, version_path

    as_onnx = (format or ("onnx" if out.suffix == SUFFIXES["onnx"] else "savedmodel")) == "onnx"
    if as_onnx and (version, max_pixels) != (None, SERVED_PIXELS):
        raise ValueError("--version and --max-pixels are of a SavedModel: leave them out for ONNX.")
    onnx_path(out) if as_onnx else version_path(out, version)  # says now what is wrong
    locate_weights(weights, "tensorflow")
    import_keras()
    check_backend("An export")
    from retinex_keras.inference import load_pretrained
    from retinex_keras.serving.export import export_onnx, export_savedmodel

    model = load_pretrained(weights, denoise, engine="tensorflow")
    if as_onnx:
        export_onnx(model, out)
    else:
        out = export_savedmodel(model, out, version, max_pixels)
    print(f"exported: {out}")


def request(url, image, out, version, timeout, at_once, force, quality, as_json, **dials):
    from retinex_keras.dials import Dials
    from retinex_keras.folders.plan import plan_photos
    from retinex_keras.folders.run import Report, run_plan
    from retinex_keras.serving.client import connect, request_files, request_folder, request_image

    if image and not out:
        raise ValueError(f"Received {image} alone: name the picture to write, or the folder, after it.")
    with contextlib.closing(connect(url, version, timeout)) as server:
        if not image:
            states = server.status()
            lines = [json.dumps(states)] if as_json else [f"version {version}: {state}" for version, state in states.items()]
            print(*lines, sep="\n")
            return 0
        if image.is_dir():
            _check_is_folder(out)
            return _report(out, request_folder(server, image, out, force, quality, at_once, **dials), as_json)
        if _is_folder(out):
            executor = functools.partial(request_files, server=server, quality=quality, at_once=1, dials=Dials(**dials).check())
            return _report(out, run_plan(plan_photos([image], out, force), executor), as_json)
        _check_target(out, image, force, quality)
        request_image(server, image, out, quality, **dials)
        if as_json:
            return _report(out, Report([out], [], [], []), as_json)
        print(f"enhanced: {out}")


def app(no_browser, **options):
    from retinex_keras.app import serve

    serve(browser=not no_browser, **options)


def _parser():
    parser = _Parser("retinex", description="Photos taken in the dark, brightened.")
    parser.add_argument("--version", action="version", version=f"retinex {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(function, text, *parents):
        added = commands.add_parser(function.__name__, help=text, description=text, parents=parents)
        added.set_defaults(command=function)
        for kind in (None, Path, os.fspath):  # the last one keeps the slash at the end of a path
            added.register("type", kind, functools.partial(_given, kind or str))
        return added.add_argument

    def shared():
        options = argparse.ArgumentParser(add_help=False)
        return options, options.add_argument

    pairs, add = shared()
    add("low", type=Path, help="folder of dark images")
    add("--lpips", action="store_true", help="also compute LPIPS; needs the extra lpips")
    add("--format", choices=["text", "csv", "json"], default="text", help="format of the table (default: %(default)s)")

    model, add = shared()
    add("--weights", **WEIGHTS, default=DEFAULT)
    about = "how much noise to remove, 0 for none; only for weights of the recipe paper (default: their own)"
    add("--denoise", type=STRENGTH, metavar="STRENGTH", help=about)

    engine, add = shared()
    about = "what computes; onnx starts faster, and needs the extra onnx (default: tensorflow, if installed)"
    add("--engine", choices=list(SUFFIXES), help=about)

    results, add = shared()
    add("--force", action="store_true", help="replace results that exist, for example after you turned a dial")
    add("--quality", type=PERCENT, default=95, metavar="1-100", help="quality of JPEG, WebP and AVIF (default: %(default)s)")
    add("--json", action="store_true", dest="as_json", help="report as a JSON object: made, existing, bad, skipped")

    steer, add = shared()
    add("--exposure", type=NUMBER, default=0.0, metavar="STOPS", help="brighter (+) or darker (-) than automatic, -3 to 3")
    add("--brightness", type=NUMBER, metavar="LUMA", help="mean brightness of the result, up to 1, instead of an exposure")
    add("--strength", type=NUMBER, default=1.0, help="0 is the photo itself, 1 the full result (default: 1)")
    about = "0 is grey, 2 is very strong; 1 leaves colours as they are (default: 1)"
    add("--colour", "--color", type=NUMBER, default=1.0, help=about)

    add = command(train, "Train the networks of a recipe, or go on with a stopped run.")
    add("data", nargs="*", type=Path, help="folders of pairs, with subfolders low and high")
    add("--recipe", **RECIPE, default=DEFAULT)
    add("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    add("--validation", type=Path, metavar="DIR", help="folder of pairs to score now and then")
    add("--photos", type=Path, metavar="DIR", help="folder of well-lit photos, darkened while training")
    add("--weights", metavar="NAME-or-PATH", help="weights to begin with (default: new networks)")
    add("--epochs", type=COUNT, default=100, help="epochs of each phase (default: %(default)s)")
    add("--batch-size", type=COUNT, help="patches per step (default: the recipe's)")
    add("--patch-size", type=COUNT, help="side in pixels (default: the recipe's; with --whole 128)")
    add("--whole", action="store_true", help="whole images, resized to squares, instead of patches (paper, simple)")
    add("--learning-rate", type=POSITIVE, help="learning rate of the optimizer (default: the recipe's, for new networks)")
    about = "a tenth of the learning rate from here on (paper, simple; default: a fifth of the epochs)"
    add("--decay-epoch", type=COUNT, help=about)
    add("--seed", type=INDEX, default=0, help="random seed of weights, order and patches (default: %(default)s)")
    add("--every", type=COUNT, default=20, help="epochs between validations and samples (default: %(default)s)")
    add("--filters", type=COUNT, help="channels of the inner layers of new networks (default: the recipe's)")
    add("--cache", type=Path, metavar="DIR", help="keep decoded images here instead of in memory")
    add("--workers", metavar="HOST:PORT,...", help="all machines that train together (default: what TF_CONFIG says)")
    add("--index", type=INDEX, metavar="N", help="which of the workers this process is, from 0; the first writes")

    about = "Brighten a photo, several, or all photos of a folder and its subfolders."
    add = command(enhance, about, model, engine, steer, results)
    about = "photos, - for standard input, or a folder; with --cluster also its address, such as s3://bucket/photos"
    add("image", nargs="+", help=about)
    add("out", help="the picture to write, whose suffix decides the format, or - for a PNG on standard output; or a folder")
    add("--sheet", type=Path, metavar="FILE", help="also write the photo before and after, side by side")
    add("--max-pixels", **LIMIT)
    add("--cluster", metavar="ADDRESS", help="enhance the folder on this Ray cluster; local starts one on this machine")

    add = command(decompose, "Brighten photos and also write their reflectance and illumination.", model, engine, steer)
    add("image", nargs="+", type=Path, help="photos")
    add("out", type=Path, help="folder for the pictures")
    add("--max-pixels", **LIMIT)

    add = command(evaluate, "Score a model on pairs, or on photos without references: one row per image.", pairs, model, engine)
    add("high", **HIGH, nargs="?")
    add("--results", type=Path, metavar="DIR", help="score these pictures, made by another program, instead of the model's")

    about = "give each picture the brightness of its reference: what knowing it would gain"
    add("--oracle-brightness", action="store_true", help=about)

    add = command(compare, "Score several methods on the same pairs, one row per method.", pairs, engine)
    add("high", **HIGH)
    about = "names of methods without learning, from the extra baselines (default: all)"
    add("--methods", nargs="*", metavar="NAME", help=about)
    add("--weights", nargs="*", metavar="NAME-or-PATH", help="weights of networks (default: all shipped ones)")
    add("--sheet", type=Path, metavar="OUT.png", help="write a sheet of pictures: one row per scene, one column per method")

    add = command(benchmark, "Measure the speed of enhancing and training on this machine.")
    add("--sizes", nargs="+", metavar="SIZE", help="image sizes: 600x400, 1080p, '12 MP' (default: all)")
    add("--runs", type=COUNT, default=5, help="number of runs, of which the median is printed (default: %(default)s)")
    add("--weights", **WEIGHTS | {"help": f"as in enhance (default: {DEFAULT})"}, nargs="+", default=[DEFAULT])
    add("--recipe", **RECIPE | {"nargs": "*", "help": "recipes whose training is measured (default: all of the package)"})

    add = command(convert, "Convert the original's TensorFlow 1 checkpoints.")
    add("--decom", type=Path, metavar="DIR", help="folder of Decom-Net's checkpoint")
    add("--enhance", type=Path, metavar="DIR", help="folder of Enhance-Net's checkpoint, the original's Relight")
    add("out", type=Path, metavar="OUT.keras")

    add = command(export, "Write a model for TensorFlow Serving, with the server's settings beside it.", model)
    add("out", type=Path, help="folder of the model, which the server watches; for ONNX, the file to write")
    add("--format", choices=["savedmodel", "onnx"], help="default: by the suffix of the file")
    add("--version", type=COUNT, metavar="N", help="a positive number (default: the next one)")
    add("--max-pixels", **LIMIT | {"default": SERVED_PIXELS})

    about = "Let a server brighten a photo or a folder. With the address alone: list its versions of the model."
    add = command(request, about, steer, results)
    add("url", help="http://host:8501 for REST, grpc://host:8500 for gRPC")
    add("image", type=Path, nargs="?", help="a photo or a folder")
    add("out", type=os.fspath, nargs="?", help="the picture to write, whose suffix decides the format; or a folder")
    add("--version", type=COUNT, metavar="N", help="version of the model (default: the server's latest)")
    add("--timeout", type=POSITIVE, default=600.0, metavar="SECONDS", help="longest time for each image (default: %(default)g)")
    add("--at-once", type=COUNT, default=4, metavar="N", help="images of a folder under way at a time (default: %(default)s)")

    add = command(app, "Open a page in the browser: drop a photo, turn the dials, download the result.", engine)
    add("folder", type=Path, nargs="?", help="folder of photos to pick from, or to brighten together")
    add("--out", type=Path, metavar="DIR", help="folder for the results of all photos (default: FOLDER_bright, beside it)")
    add("--weights", **WEIGHTS, default=DEFAULT)
    add("--port", type=COUNT, metavar="N", help="port on this machine (default: a free one from 7860 on)")
    add("--no-browser", action="store_true", help="print the address only")
    add("--max-pixels", **LIMIT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
