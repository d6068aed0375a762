"""The page of `retinex app`: a photo before and after, dials, its download. Gradio makes it; nothing of it is remote."""

import functools
import html
import os
import shutil
import signal
import tempfile
import threading
import weakref
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from retinex_keras.dials import DEFAULTS, RANGES, steer
from retinex_keras.engines import locate_weights, shipped_weights
from retinex_keras.folders.plan import plan_folder
from retinex_keras.folders.run import carried_out, enhance_files
from retinex_keras.imaging import MAX_PIXELS, PathLike, cameras
from retinex_keras.imaging.pixels import to_float, to_uint8
from retinex_keras.imaging.read import list_images, read_photo
from retinex_keras.imaging.write import WRITTEN, check_sides, check_writable, write_image
from retinex_keras.inference import decompose, enhance, find_model

SIDE = 1600  # of the pictures on the page, the longer one at most, in pixels
TABS = 4  # of a browser that keep their photo; each takes up to 130 MB
LARGEST_UPLOAD = "512mb"
VIEWS = {
    "photo": ("image", "enhanced"),
    "reflectance": ("reflectance", "restored_reflectance"),
    "illumination": ("illumination", "adjusted_illumination"),
}
SAME = {".jpeg": ".jpg", ".tiff": ".tif"}  # two suffixes of one format
SUFFIXES = sorted(WRITTEN - SAME.keys() - (set() if cameras.has_avif() else {".avif"}))
DIALS = {"exposure": "Exposure (stops)", "strength": "Strength (0: none)", "colour": "Colour (0: grey)"}
# Whatever the page names, the browser asks no other address.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
STYLE = """
.message {overflow-wrap: anywhere}
.error {border-left: 4px solid #dc2626; padding-left: 8px; font-weight: 600}
progress {width: 100%}
progress::-webkit-progress-value {background: var(--color-accent)}
progress::-moz-progress-bar {background: var(--color-accent)}
"""


def reduced(photo: np.ndarray) -> np.ndarray:
    """A photo as floats, made smaller where a side is longer than 1600 pixels.

    Args:
        photo: (H, W, 3), uint8 or uint16.

    Returns:
        (h, w, 3), float32 in [0, 1].

    >>> reduced(np.full((30, 3200, 3), 255, "uint8")).shape
    (15, 1600, 3)
    """
    scale = SIDE / max(photo.shape[:2])
    if scale >= 1:
        return to_float(photo)
    size = [max(round(side * scale), 1) for side in photo.shape[1::-1]]
    channels = (Image.fromarray(photo[..., i].astype("float32")) for i in range(3))
    channels = [np.asarray(channel.resize(size, Image.Resampling.BILINEAR)) for channel in channels]
    return np.stack(channels, axis=-1) / np.float32(np.iinfo(photo.dtype).max)


class Photo:
    """A photo on the page: where its file is, and what a model makes of it at the size of the page.

    Args:
        path: of the file.
        weights: of the model, as `enhance` takes them.
        max_pixels: larger photos are refused.

    Attributes:
        size: width and height of the file's picture, in pixels.
        profile: the colour profile of the file, bytes, or None.
        parts: what the model returns for the picture, made smaller, and this itself as `image`.

    >>> photo = Photo("dark.png", "natural")
    >>> before, after = photo.pictures("photo", exposure=1.0, strength=1.0, colour=1.0)
    >>> before.shape, before.dtype, bool(after.mean() > before.mean())
    ((20, 24, 3), dtype('uint8'), True)
    """

    def __init__(self, path: PathLike, weights, max_pixels: int = MAX_PIXELS):
        pixels, extras = read_photo(path, max_pixels)
        self.path, self.max_pixels, self.size = Path(path), max_pixels, pixels.shape[1::-1]
        self.profile = extras.get("icc_profile")
        self.parts = {"image": reduced(pixels)}
        self.use(weights)

    def use(self, weights):
        """Takes another model."""
        image = self.parts["image"]
        self.parts = {"image": image} | decompose(image, weights)
        self.weights, self.has_dials = weights, find_model(weights).decomposes

    def pictures(self, view: str, **dials: float) -> tuple[np.ndarray, np.ndarray]:
        """The pictures before and after, of the photo, or of its reflectance or illumination; (h, w, C), uint8."""
        parts = steer(self.parts, self.parts["image"], **dials) if self.has_dials else self.parts
        before, after = VIEWS[view]
        return to_uint8(parts[before]), to_uint8(parts[after])

    def save(self, out: PathLike, **dials: float):
        """Writes the result at full size, as `retinex enhance` does."""
        photo, extras = read_photo(self.path, self.max_pixels)
        check_writable(out)
        check_sides(out, photo.shape[:2])
        write_image(out, enhance(photo, self.weights, **dials if self.has_dials else {}), extras)


class _Tab:
    """What a tab of a browser has: its photo, and a folder of files, which is deleted with it."""

    def __init__(self, photo, name, place):
        self.photo, self.name, self.folder = photo, name, tempfile.mkdtemp(dir=place)
        self.before, self.drawn, self.saved = {}, [], ""
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def draw(self, view, dials):
        """The files of the pictures before and after. Of the latter the last few stay, which the browser may still ask for."""
        before, after = self.photo.pictures(view, **dials)
        if (key := (view, self.photo.weights)) not in self.before:
            self.before[key] = self._write(before)
        self.drawn.append(self._write(after))
        for old in self.drawn[:-3]:
            os.unlink(old)
        del self.drawn[:-3]
        return self.before[key], self.drawn[-1]

    def _write(self, picture):
        with tempfile.NamedTemporaryFile(suffix=".jpg", dir=self.folder, delete=False) as file:
            if picture.shape[-1] == 1:
                Image.fromarray(picture[..., 0]).save(file, quality=90)
            else:
                Image.fromarray(picture).save(file, quality=90, icc_profile=self.photo.profile)
        return file.name

    def save(self, suffix, dials):
        """Writes the result in a folder of its own, since browsers keep what they got from an address."""
        shutil.rmtree(self.saved, ignore_errors=True)  # the last one
        self.saved = tempfile.mkdtemp(dir=self.folder)
        out = Path(self.saved, f"{Path(self.name).stem}_bright{suffix}")
        self.photo.save(out, **dials)
        return out


def _text(name):
    """The name of a file as text, which its bytes need not be."""
    return str(name).encode(errors="backslashreplace").decode()


def _message(text, bad=False):
    return f'<p class="message{" error" * bad}" role="status">{html.escape(_text(text))}</p>' if text else ""


# The number beside a slider shows its value: Gradio does not mend one out of range, or none, that is typed there.
READ_ONLY = "() => document.querySelectorAll('input[type=number]').forEach(field => { field.readOnly = true })"
NO_PHOTO = _message("There is no photo here: drop one, or pick one.", bad=True)


def _build(gr, place, photos, models, chosen, folder, out, max_pixels):
    """The page, a `gradio.Blocks`.

    Args:
        gr: the module.
        place: the folder of temporary files.
        photos: to pick from, {name: path}.
        models: to choose from, {name: weights}; `chosen` is the name of the first.
        folder, out: of photos to enhance together, and of their results; or None.
    """

    def changes(tab, view, dials):
        """What is new on the page when a tab has another photo, or another model."""
        photo, has_dials = tab.photo, tab.photo.has_dials
        view = view if has_dials else "photo"
        notes = [] if has_dials else ["These weights do not split a photo into reflectance and illumination: no dials."]
        if max(photo.size) > SIDE:
            notes.append("The page shows a smaller copy; the download has the full size.")
        return {
            message: _message(" ".join(notes)),
            slider: gr.ImageSlider(tab.draw(view, dials), label="{}, {} x {}".format(tab.name, *photo.size)),
            views: gr.Radio(value=view, interactive=has_dials),
            **{dial: gr.Slider(interactive=has_dials) for dial in sliders},
        }

    def open_photo(path, weights, view, *values):
        name = _text(Path(path).name)
        try:
            tab = _Tab(Photo(path, models[weights], max_pixels), name, place)
        except (ValueError, OSError) as error:
            return {message: _message(str(error).replace(str(path), name), bad=True)}
        suffix = Path(name).suffix.lower()
        suffix = SAME.get(suffix, suffix)
        new = {state: tab, suffixes: suffix if suffix in SUFFIXES else ".png", saved: ""}
        return new | changes(tab, view, dict(zip(DIALS, values)))

    def upload(path, *settings):
        folder = tempfile.mkdtemp(dir=place)
        try:  # Gradio gives the same path to all tabs with the same photo
            own = shutil.copy(path, folder)
            Path(path).unlink(missing_ok=True)
            new = open_photo(own, *settings)
            if state in new:  # the tab keeps the file
                new[state].photo.path = shutil.move(own, new[state].folder)
        except FileNotFoundError:
            new = {message: _message("Another tab took this photo at the same moment: drop it again.", bad=True)}
        shutil.rmtree(folder)
        return new | {drop: None, pick: None}

    def pick_photo(name, *settings):
        return open_photo(photos[name], *settings)

    def use(tab, weights, view, *values):
        if tab is None:
            return {message: NO_PHOTO}
        try:
            tab.photo.use(models[weights])
        except (ValueError, OSError) as error:
            return {message: _message(str(error), bad=True)}
        return changes(tab, view, dict(zip(DIALS, values)))

    def redraw(tab, view, *values):
        return {slider: tab.draw(view, dict(zip(DIALS, values)))} if tab else {message: NO_PHOTO}

    def save(tab, suffix, *values):
        if tab is None:
            return {result: None, saved: NO_PHOTO}
        try:
            out = tab.save(suffix, dict(zip(DIALS, values)))
        except (ValueError, OSError) as error:
            return {result: None, saved: _message(str(error).replace(str(tab.photo.path), tab.name), bad=True)}
        text = f"Made {out.name}, {out.stat().st_size / 1e6:.1f} MB: it is among the downloads of the browser."
        return {result: str(out), saved: _message(text)}

    def enhance_all(weights, force, *values):
        bad, done = [], 0
        yield '<progress value="0"></progress>'
        try:
            model = find_model(models[weights])
            dials = dict(zip(DIALS, values)) if model.decomposes else {}
            brighten = functools.partial(enhance, model=model, **dials)
            executor = functools.partial(enhance_files, brighten=brighten, quality=95, max_pixels=max_pixels)
            with carried_out(plan_folder(folder, out, force), executor) as (plan, ended):
                count = len(plan.targets)
                for done, (image, reason) in enumerate(ended, 1):
                    bad += [reason if image in reason else f"{image}: {reason}"] if reason else []
                    yield f'<progress value="{done}" max="{count}"></progress>' + _message(f"{done} of {count}")
        except (ValueError, OSError) as error:
            yield _message(str(error), bad=True)
            return
        text = f"Made: {done - len(bad)}, in {out}. Already there: {len(plan.existing)}. Bad: {len(bad)}."
        text += f" Skipped: {len(plan.skipped)}." if plan.skipped else ""
        bad += [f"{path}: {reason}" for path, reason in plan.skipped]
        yield _message(text) + "".join(_message(reason, bad=True) for reason in bad)

    with gr.Blocks(title="retinex", analytics_enabled=False, fill_width=True) as page:
        state = gr.State()
        gr.Markdown("## Brighten a photo taken in the dark\nIt stays on this computer.")
        with gr.Row(equal_height=True):
            drop = gr.File(label="Photo", height=120, scale=2)
            pick = gr.Dropdown(list(photos), value=None, label="Or pick one", scale=1, visible=bool(photos))
        message = gr.HTML()
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                slider = gr.ImageSlider(label="Before and after", interactive=False, buttons=["fullscreen"], max_height=640)
            with gr.Column(scale=1, min_width=280):
                sliders = [
                    gr.Slider(*RANGES[name], getattr(DEFAULTS, name), step=0.05, label=label, buttons=["reset"])
                    for name, label in DIALS.items()
                ]
                about = "Reflectance: the things in the photo. Illumination: the light on them."
                views = gr.Radio(list(VIEWS), value="photo", label="Show", info=about)
                about = "natural: the best pictures. paper: the research method. lol: for scores. simple: has no dials."
                weights = gr.Dropdown(list(models), value=chosen, label="Weights", info=about, visible=len(models) > 1)
                suffixes = gr.Dropdown([(suffix[1:].upper(), suffix) for suffix in SUFFIXES], value=".png", label="Format")
                button = gr.Button("Download at full size", variant="primary")
                saved = gr.HTML()
                result = gr.DownloadButton(elem_id="result", visible="hidden")
        page.load(None, js=READ_ONLY)
        everything = [state, drop, pick, message, slider, views, suffixes, saved, *sliders]
        one = {"api_visibility": "private", "concurrency_id": "photo", "concurrency_limit": 1, "show_progress_on": slider}
        drop.upload(upload, [drop, weights, views, *sliders], everything, **one)
        pick.input(pick_photo, [pick, weights, views, *sliders], everything, **one)
        weights.input(use, [state, weights, views, *sliders], everything, **one)
        gr.on(
            [component.change for component in (views, *sliders)],
            redraw,
            [state, views, *sliders],
            [slider, message],
            api_visibility="private",
            trigger_mode="always_last",
            show_progress="hidden",
        )
        button.click(save, [state, suffixes, *sliders], [result, saved], **one | {"show_progress_on": saved}).then(
            None, js="() => document.querySelector('#result').click()"
        )
        if folder:
            gr.HTML(f"<h3>All photos of {html.escape(_text(folder))}</h3>" + _message(f"Their results go into {out}."))
            force = gr.Checkbox(label="Replace results that exist")
            with gr.Row():
                start = gr.Button("Brighten all, with these dials", scale=3)
                stop = gr.Button("Stop", scale=1)
            report = gr.HTML()
            running = start.click(enhance_all, [weights, force, *sliders], report, api_visibility="private")
            stopped = _message("Stopped. The results so far stay. The button goes on from there, or replaces all of them.")
            stop.click(None, cancels=[running]).then(
                lambda shown: stopped if "<progress" in (shown or "") else shown, report, report, api_visibility="private"
            )
    return page


class _OwnPageOnly:
    """Refuses what other sites send here, and keeps the page from asking others, as an ASGI application around one."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        if scope["type"] == "http":
            host, origin = (Headers(scope=scope).get(name, "") for name in ("host", "origin"))
            if urlsplit(f"//{host}").hostname not in ("127.0.0.1", "localhost") or origin not in ("", f"http://{host}"):
                answer = PlainTextResponse("This page is for the browser of its own computer.", 403)
                return await answer(scope, receive, send)
        await self.app(scope, receive, send_with_policy)


def serve(folder, out, weights, engine, port, browser, max_pixels):
    """Serves the page on 127.0.0.1, and prints its address, until the process is stopped: `retinex app`, with its options.

    Raises:
        FileNotFoundError: if there is no such folder, or there are no such weights.
        ModuleNotFoundError: if Gradio is not installed.
        OSError: if the port is taken.
        ValueError: if the folder holds no image, there is none for `out`, or the file of the weights holds something else.
    """
    if not find_spec("gradio"):
        raise ModuleNotFoundError("The page needs Gradio: pip install '.[app]' in retinex_keras's folder.")
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"A port is a number from 1 to 65535. Received {port}.")
    if out and not folder:
        raise ValueError(f"Received {out} for results, but no folder of photos: name that folder too.")
    engine, path = locate_weights(weights, engine)
    photos = {}
    if folder:
        photos = {_text(path.relative_to(folder).as_posix()): path for path in list_images(folder)}
        folder = Path(folder).resolve()
        out = folder.with_name(f"{folder.name}_bright") if out is None else Path(out).resolve()
    photos |= {f"example: {path.stem}": path for path in _examples()}
    chosen = weights if weights in shipped_weights(engine) else path.name
    models = {chosen: path} | shipped_weights(engine)
    find_model(path)

    with tempfile.TemporaryDirectory() as place:
        direct = os.environ.get("no_proxy", os.environ.get("NO_PROXY"))
        direct = ",".join(filter(None, (direct, "127.0.0.1")))
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": place, "no_proxy": direct}
        import gradio
        from starlette.middleware import Middleware

        page = _build(gradio, place, photos, models, chosen, folder, out, max_pixels)
        try:
            address = page.launch(
                server_name="127.0.0.1",
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                app_kwargs={"middleware": [Middleware(_OwnPageOnly)]},
                max_file_size=LARGEST_UPLOAD,
                state_session_capacity=TABS,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                theme=gradio.themes.Default(font="system-ui", font_mono="monospace"),
                css=STYLE,
            )[1]
        except OSError as error:
            if "port" not in str(error):
                raise
            raise OSError(f"{f'Port {port} is' if port else 'The ports from 7860 on are'} taken: name a free one.") from None
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"The page: {address} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(address)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
            signal.signal(signal.SIGTERM, before)


def _examples():
    """The dark photos that come with this package."""
    here = Path(__file__).parent
    return sorted((*here.parent.glob("notebooks/pairs/low/*.png"), *here.glob("examples/*.png")))
