#!/usr/bin/env python3
"""render.py --check: accepts the tree as it is, and refuses an edited, a missing and an extra file, in a copy of it.

Runs render.py with the project's virtual environment, or else with this Python; without Jinja2 in it: exit 77, skipped.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "bin" / "python"
PYTHON = str(VENV) if VENV.exists() else sys.executable


class RenderCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        for name in ("templates", "generated"):
            shutil.copytree(ROOT / name, self.root / name)

    def render(self, *arguments):
        script = str(self.root / "templates" / "render.py")
        return subprocess.run([PYTHON, script, *arguments], capture_output=True, text=True, check=False)

    def refused(self, *fragments):
        result = self.render("--check")
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        for fragment in fragments:
            self.assertIn(fragment, result.stdout)

    def test_tree_is_rendered(self):
        result = self.render("--check")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_edited_file(self):
        path = self.root / "generated" / "i2s_gemv_avx2.h"
        path.write_text(path.read_text().replace("kFlushLines = 8", "kFlushLines = 9"))
        self.refused("i2s_gemv_avx2.h differs", "-constexpr int kFlushLines = 9;", "+constexpr int kFlushLines = 8;")

    def test_missing_file(self):
        (self.root / "generated" / "i2s_gemm_scalar.h").unlink()
        self.refused("i2s_gemm_scalar.h is missing")

    def test_extra_file(self):
        (self.root / "generated" / "i2s_gemv_sse9.h").write_text("// stray\n")
        self.refused("i2s_gemv_sse9.h is extra")

    def test_changed_template(self):
        path = self.root / "templates" / "dict" / "avx512" / "i2s.j2"
        path.write_text(path.read_text().replace("set1_epi8(0x0C)", "set1_epi8(0x0D)"))
        self.refused("i2s_gemv_avx512.h differs")

    def test_undefined_name_is_an_error(self):
        path = self.root / "templates" / "gemv.h.j2"
        path.write_text(path.read_text().replace("{{ op.title }}", "{{ op.tittle }}"))
        result = self.render("--check")
        self.assertEqual(result.returncode, 1)
        self.assertIn("tittle", result.stderr)

    def test_writing_mends(self):
        (self.root / "generated" / "i2s_gemm_scalar.h").unlink()
        (self.root / "generated" / "i2s_gemv_sse9.h").write_text("// stray\n")
        self.assertEqual(self.render().returncode, 0)
        self.assertEqual(self.render("--check").returncode, 0)


if __name__ == "__main__":
    if subprocess.run([PYTHON, "-c", "import jinja2"], capture_output=True, check=False).returncode != 0:
        print(f"render_test: skipped, {PYTHON} has no jinja2; run tools/install_deps.sh")
        sys.exit(77)
    unittest.main()
