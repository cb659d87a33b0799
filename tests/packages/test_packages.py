"""Every documented package is there and works: one small use of each, all in one session."""

import pytest

from tests.conftest import ROOT, Service
from tests.packages.examples import EXAMPLES

DOCUMENTED = """
    aiohttp beautifulsoup4 bokeh gensim imageio joblib librosa matplotlib nltk numpy opencv-python openpyxl
    pandas plotly pytest python-docx pytz requests scikit-image scikit-learn scipy seaborn soundfile spacy
    textblob tornado urllib3 xarray xlrd sympy
""".split()  # noqa: SIM905 (as the documentation lists them)


@pytest.fixture(scope="module")
def session_id(service: Service) -> str:
    """The session that all examples share."""
    found: str = service.run("")["session_id"]
    return found


@pytest.mark.parametrize("package", sorted(EXAMPLES))
def test_package_does_what_it_is_for(service: Service, session_id: str, package: str) -> None:
    code, printed = EXAMPLES[package]
    assert service.stdout(code, session_id) == printed


def test_every_documented_package_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(DOCUMENTED)


def test_every_documented_package_is_pinned() -> None:
    lines = (ROOT / "docker" / "sandbox" / "requirements.txt").read_text().splitlines()
    pinned = {line.split("==")[0].split("[")[0].strip() for line in lines if "==" in line}
    missing = {name for name in DOCUMENTED if name not in pinned} - {"opencv-python"}
    assert missing == set()
    assert pinned & {"opencv-python", "opencv-python-headless"}
