"""Write every golden file anew; the difference is for a person to review."""

from tests.golden.files import FILES, FOLDER

for name, content in FILES.items():
    (FOLDER / name).write_text(content(), encoding="utf-8")
