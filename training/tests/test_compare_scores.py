"""The comparison of two programs' likelihoods: near, too far, and of something else."""

import json
import unittest
from typing import Any

import support

import compare_scores

GOOD = {"bits_per_byte": 2.0, "total_tokens": 100, "total_bytes": 300, "ctx_size": 16, "stride": 8}


class CompareScores(support.TestCase):
    def compare(self, *others: dict[str, Any], options: tuple = ()) -> support.Result:
        folder = self.folder()
        paths = []
        for i, values in enumerate((GOOD, *others)):
            paths.append(folder / f"{i}.json")
            paths[-1].write_text(json.dumps(values))
        return support.call(compare_scores, *paths, *options)

    def test_near_and_far(self):
        for bits, options, code in (
            (2.0, (), 0),
            (2.0099, (), 0),
            (1.9901, (), 0),
            (2.0101, (), 1),
            (1.9899, (), 1),
            (2.0101, ("--tolerance", "0.01"), 0),
            (2.0001, ("--tolerance", "0"), 1),
        ):
            result = self.compare(GOOD, GOOD | {"bits_per_byte": bits}, options=options)
            self.assertEqual((result.code, "TOO FAR" in result.out), (code, code == 1), result)

    def test_of_something_else(self):
        for change, fragment in (
            ({"total_tokens": 101}, "1.json: total_tokens is 101, in "),
            ({"total_bytes": 301}, "1.json: total_bytes is 301, in "),
            ({"ctx_size": 8}, "1.json: ctx_size is 8, in "),
            ({"stride": 4}, "1.json: stride is 4, in "),
            ({"bits_per_byte": float("nan")}, "1.json: bits_per_byte is nan; expected a positive number"),
            ({"bits_per_byte": None}, "1.json: bits_per_byte is None"),
            ({"bits_per_byte": 0}, "1.json: bits_per_byte is 0"),
        ):
            self.assert_refused(self.compare(GOOD | change), fragment)
        self.assert_refused(self.compare(GOOD, options=("--tolerance", "nan")), "--tolerance nan: expected 0 to 1")
        self.assert_refused(
            support.call(compare_scores, "/no/such", "/no/such"), "cannot be read", "give what evaluate"
        )


if __name__ == "__main__":
    unittest.main()
