"""One small, offline, deterministic use of every package the documentation says is installed.

Each example is run as a caller would run it and must print exactly the text beside it, and nothing on
stderr. None needs the network, a data set, a model or a corpus; none depends on its package's release.
"""

_AIOHTTP = """\
import asyncio
import aiohttp
from aiohttp import web

async def main():
    async def hello(request):
        return web.json_response({"name": request.match_info["name"]})

    app = web.Application()
    app.router.add_get("/hello/{name}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as client:
        async with client.get(f"http://127.0.0.1:{port}/hello/ada") as answer:
            print(answer.status, await answer.json())
    await runner.cleanup()

# A thread of its own: a notebook kernel's main thread has a loop that runs already.
import threading
thread = threading.Thread(target=lambda: asyncio.run(main()))
thread.start()
thread.join()
"""

_BEAUTIFULSOUP4 = """\
from bs4 import BeautifulSoup

page = "<ul><li class=a>one</li><li>two</li><li class=a>three</li></ul>"
for parser in ("html.parser", "lxml", "html5lib"):
    print(parser, [item.get_text() for item in BeautifulSoup(page, parser).select("li.a")])
"""

_BOKEH = """\
from bokeh.embed import file_html
from bokeh.plotting import figure
from bokeh.resources import INLINE

plot = figure(title="squares", width=300, height=200)
plot.line([1, 2, 3], [1, 4, 9])
page = file_html(plot, INLINE, "chart")
print("squares" in page, page.rstrip().endswith("</html>"))
"""

_GENSIM = """\
from gensim import corpora, models

texts = [["cat", "dog"], ["dog", "bone"], ["cat", "milk"]]
words = corpora.Dictionary(texts)
tfidf = models.TfidfModel([words.doc2bow(text) for text in texts])
rarest = max(tfidf[words.doc2bow(["dog", "bone"])], key=lambda pair: pair[1])
print(len(words), words[rarest[0]])
"""

_IMAGEIO = """\
import imageio.v3 as iio
import numpy as np

picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
again = iio.imread(iio.imwrite("<bytes>", picture, extension=".png"), extension=".png")
print(again.shape, bool((again == picture).all()))
"""

_JOBLIB = """\
import math
import joblib

print(joblib.Parallel(n_jobs=2, prefer="threads")(joblib.delayed(math.factorial)(n) for n in range(6)))
joblib.dump({"answer": 42}, "answer.joblib")
print(joblib.load("answer.joblib"))
"""

_LIBROSA = """\
import librosa
import numpy as np

rate = 22050
tone = np.sin(2 * np.pi * 440.0 * np.arange(rate) / rate).astype(np.float32)
strength = np.abs(librosa.stft(tone)).mean(axis=1)
peak = librosa.fft_frequencies(sr=rate)[strength.argmax()]
print(librosa.hz_to_note(440.0), abs(peak - 440.0) < rate / 2048)
"""

_MATPLOTLIB = """\
import io
import matplotlib.pyplot as plt

figure, axes = plt.subplots()
axes.plot([1, 2, 3], [1, 4, 9], label="squares")
axes.legend()
picture = io.BytesIO()
figure.savefig(picture, format="png")
plt.close(figure)
print(picture.getvalue()[:4], len(axes.lines))
"""

_NLTK = """\
from nltk import FreqDist, edit_distance
from nltk.stem import PorterStemmer
from nltk.tokenize import wordpunct_tokenize

words = wordpunct_tokenize("The runner runs, and the dogs run.")
print([PorterStemmer().stem(word) for word in words])
print(FreqDist(word.lower() for word in words).most_common(1), edit_distance("kitten", "sitting"))
"""

_NUMPY = """\
import numpy as np

matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
print(np.linalg.solve(matrix, np.array([3.0, 5.0])).round(6).tolist(), np.arange(10).sum())
"""

_OPENCV = """\
import cv2
import numpy as np

picture = np.zeros((60, 80), dtype=np.uint8)
cv2.rectangle(picture, (10, 10), (29, 39), 255, -1)
contours = cv2.findContours(picture, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
print(len(contours), cv2.boundingRect(contours[0]), cv2.imencode(".png", picture)[0])
"""

_OPENPYXL = """\
import openpyxl

book = openpyxl.Workbook()
for row in [("fruit", "count"), ("apple", 3), ("pear", 4)]:
    book.active.append(row)
book.active["B4"] = "=SUM(B2:B3)"
book.save("fruit.xlsx")
print(list(openpyxl.load_workbook("fruit.xlsx").active.values))
"""

_PANDAS = """\
import io
import pandas as pd

table = pd.read_csv(io.StringIO("city,sold\\nOslo,3\\nRome,4\\nOslo,5\\n"))
print(table.groupby("city")["sold"].sum().to_dict())
print(pd.read_html(io.StringIO(table.to_html(index=False)))[0].equals(table))
print(table.to_markdown(index=False).splitlines()[0])
"""

_PLOTLY = """\
import json
import plotly.express as px
import plotly.graph_objects as go

figure = go.Figure(go.Bar(x=["a", "b"], y=[1, 2]))
figure.update_layout(title="counts")
drawn = json.loads(figure.to_json())
print(drawn["data"][0]["type"], drawn["layout"]["title"]["text"], len(px.line(y=[1, 2, 3]).data))
"""

_PYTEST = """\
import contextlib
import io
import pathlib
import pytest

pathlib.Path("test_sums.py").write_text("def test_sum():\\n    assert 1 + 1 == 2\\n")
report = io.StringIO()
with contextlib.redirect_stdout(report):
    code = pytest.main(["-q", "-p", "no:cacheprovider", "test_sums.py"])
print(int(code), "1 passed" in report.getvalue())
"""

_PYTHON_DOCX = """\
import docx

document = docx.Document()
document.add_heading("Report", level=1)
document.add_paragraph("All is well.")
document.save("report.docx")
print([paragraph.text for paragraph in docx.Document("report.docx").paragraphs])
"""

_PYTZ = """\
from datetime import datetime
import pytz

noon = pytz.timezone("Europe/Oslo").localize(datetime(2024, 7, 1, 12))
print(noon.isoformat(), noon.astimezone(pytz.timezone("Asia/Tokyo")).isoformat())
"""

_REQUESTS = """\
import requests

made = requests.Request("GET", "https://example.com/search", params={"q": "a b", "n": 2}).prepare()
print(made.method, made.url)
try:
    requests.get("http://127.0.0.1:9/", timeout=2, proxies={"http": None})
except requests.ConnectionError as error:
    print(type(error).__name__)
"""

_SCIKIT_IMAGE = """\
import numpy as np
from skimage import filters, measure

picture = np.zeros((20, 20))
picture[2:6, 2:6] = 1.0
picture[10:15, 10:18] = 1.0
regions = measure.regionprops(measure.label(picture > filters.threshold_otsu(picture)))
print([int(region.area) for region in regions])
"""

_SCIKIT_LEARN = """\
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

flowers, kinds = load_iris(return_X_y=True)
seen, unseen, seen_kinds, unseen_kinds = train_test_split(flowers, kinds, random_state=0)
model = LogisticRegression(max_iter=1000).fit(seen, seen_kinds)
print(unseen.shape, model.score(unseen, unseen_kinds) > 0.9)
"""

_SCIPY = """\
from scipy import integrate, optimize, stats

area, _ = integrate.quad(lambda x: x**2, 0, 3)
root = optimize.brentq(lambda x: x**2 - 2, 0, 2)
print(round(area, 6), round(root, 6), round(float(stats.norm.cdf(1.96)), 4))
"""

_SEABORN = """\
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

axes = sns.barplot(data=pd.DataFrame({"day": ["Mon", "Tue"], "sold": [3, 5]}), x="day", y="sold")
print([patch.get_height() for patch in axes.patches][:2] == [3, 5], axes.get_xlabel(), axes.get_ylabel())
plt.close("all")
"""

_SOUNDFILE = """\
import numpy as np
import soundfile as sf

rate = 8000
tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype("float32")
for name in ("tone.wav", "tone.flac", "tone.ogg"):
    sf.write(name, tone, rate)
    again, found = sf.read(name)
    print(name, found, again.shape, bool(abs(again).max() < 0.6))
"""

_SPACY = """\
import spacy

pipeline = spacy.blank("en")
pipeline.add_pipe("sentencizer")
text = pipeline("Don't panic. It's only $5!")
print([token.text for token in text])
print(len(list(text.sents)), [token.text for token in text if token.is_punct])
"""

_SYMPY = """\
import sympy as sp

x = sp.symbols("x")
print(sp.solve(x**2 - 5 * x + 6, x), sp.diff(sp.sin(x) * sp.exp(x), x), sp.integrate(1 / x, x))
"""

_TEXTBLOB = """\
from textblob import TextBlob, Word

print(TextBlob("What a wonderful day").sentiment.polarity, TextBlob("This is terrible").sentiment.polarity)
print(Word("mouse").pluralize(), Word("berries").singularize())
"""

_TORNADO = """\
import tornado.template
from tornado.escape import json_encode, xhtml_escape
from tornado.httputil import url_concat

page = tornado.template.Template("{% for n in numbers %}<b>{{ n }}</b>{% end %}")
print(page.generate(numbers=[1, 2]).decode(), xhtml_escape("a<b"), json_encode({"a": [1]}))
print(url_concat("http://example.com/", {"q": "x y"}))
"""

_URLLIB3 = """\
import urllib3
from urllib3.util import Retry, parse_url

where = parse_url("https://user@example.com:8443/a/b?c=d#e")
print(where.host, where.port, where.path, where.query)
try:
    urllib3.PoolManager().request("GET", "http://127.0.0.1:9/", retries=Retry(0), timeout=2.0)
except urllib3.exceptions.MaxRetryError as error:
    print(type(error).__name__)
"""

_XARRAY = """\
import numpy as np
import xarray as xr

field = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("time", "place"), coords={"place": ["a", "b", "c"]})
print(field.mean("time").to_series().to_dict(), float(field.sel(place="b").sum()))
"""

# xlrd reads the old binary format that nothing here writes: this is a workbook of one sheet with "hi" and
# 42 in its first row, as bare BIFF 5 records (no compound document around them, which xlrd takes as well).
_XLRD = """\
import struct
import xlrd

def record(kind, body):
    return struct.pack("<HH", kind, len(body)) + body

opening = lambda kind: record(0x809, struct.pack("<HHHH", 0x500, kind, 0, 0))
closing = record(0x0A, b"")
name = b"Sheet1"
cells = record(0x204, struct.pack("<HHHH", 0, 0, 0, 2) + b"hi")
cells += record(0x203, struct.pack("<HHHd", 0, 1, 0, 42.0))
sheet = opening(0x10) + cells + closing
head = opening(0x05) + record(0x42, struct.pack("<H", 1252))
start = len(head) + 4 + 7 + len(name) + len(closing)
book = head + record(0x85, struct.pack("<IHB", start, 0, len(name)) + name) + closing + sheet

first = xlrd.open_workbook(file_contents=book).sheet_by_index(0)
print(first.name, first.row_values(0))
"""

EXAMPLES: dict[str, tuple[str, str]] = {
    "aiohttp": (_AIOHTTP, "200 {'name': 'ada'}\n"),
    "beautifulsoup4": (
        _BEAUTIFULSOUP4,
        "html.parser ['one', 'three']\nlxml ['one', 'three']\nhtml5lib ['one', 'three']\n",
    ),
    "bokeh": (_BOKEH, "True True\n"),
    "gensim": (_GENSIM, "4 bone\n"),
    "imageio": (_IMAGEIO, "(4, 4, 3) True\n"),
    "joblib": (_JOBLIB, "[1, 1, 2, 6, 24, 120]\n{'answer': 42}\n"),
    "librosa": (_LIBROSA, "A4 True\n"),
    "matplotlib": (_MATPLOTLIB, "b'\\x89PNG' 1\n"),
    "nltk": (
        _NLTK,
        "['the', 'runner', 'run', ',', 'and', 'the', 'dog', 'run', '.']\n[('the', 2)] 3\n",
    ),
    "numpy": (_NUMPY, "[0.8, 1.4] 45\n"),
    "opencv-python": (_OPENCV, "1 (10, 10, 20, 30) True\n"),
    "openpyxl": (_OPENPYXL, "[('fruit', 'count'), ('apple', 3), ('pear', 4), (None, '=SUM(B2:B3)')]\n"),
    "pandas": (_PANDAS, "{'Oslo': 8, 'Rome': 4}\nTrue\n| city   |   sold |\n"),
    "plotly": (_PLOTLY, "bar counts 1\n"),
    "pytest": (_PYTEST, "0 True\n"),
    "python-docx": (_PYTHON_DOCX, "['Report', 'All is well.']\n"),
    "pytz": (_PYTZ, "2024-07-01T12:00:00+02:00 2024-07-01T19:00:00+09:00\n"),
    "requests": (_REQUESTS, "GET https://example.com/search?q=a+b&n=2\nConnectionError\n"),
    "scikit-image": (_SCIKIT_IMAGE, "[16, 40]\n"),
    "scikit-learn": (_SCIKIT_LEARN, "(38, 4) True\n"),
    "scipy": (_SCIPY, "9.0 1.414214 0.975\n"),
    "seaborn": (_SEABORN, "True day sold\n"),
    "soundfile": (
        _SOUNDFILE,
        "tone.wav 8000 (8000,) True\ntone.flac 8000 (8000,) True\ntone.ogg 8000 (8000,) True\n",
    ),
    "spacy": (
        _SPACY,
        "['Do', \"n't\", 'panic', '.', 'It', \"'s\", 'only', '$', '5', '!']\n2 ['.', '!']\n",
    ),
    "sympy": (_SYMPY, "[2, 3] exp(x)*sin(x) + exp(x)*cos(x) log(x)\n"),
    "textblob": (_TEXTBLOB, "1.0 -1.0\nmice berry\n"),
    "tornado": (_TORNADO, '<b>1</b><b>2</b> a&lt;b {"a": [1]}\nhttp://example.com/?q=x+y\n'),
    "urllib3": (_URLLIB3, "example.com 8443 /a/b c=d\nMaxRetryError\n"),
    "xarray": (_XARRAY, "{'a': 1.5, 'b': 2.5, 'c': 3.5} 5.0\n"),
    "xlrd": (_XLRD, "Sheet1 ['hi', 42.0]\n"),
}
