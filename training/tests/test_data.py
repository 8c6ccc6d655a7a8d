"""The cut of a text, the tokenizer, batches, and the likelihood's windows against their definition."""

import math
import unittest

import numpy
import support
import torch

import train_tokenizer
from bitnet_training import data, errors
from bitnet_training.likelihood import likelihood, windows
from bitnet_training.model import BitNet


class Cut(support.TestCase):
    def read(self, content: bytes, *overrides: str) -> data.Corpus:
        path = self.folder() / "text.txt"
        path.write_bytes(content)
        return data.Corpus.read([str(path)], support.settings(*overrides))

    def test_parts_are_the_text_cut_at_lines(self):
        content = support.text().encode()
        corpus = self.read(content, "data.validation=0.1", "data.test=0.2")
        self.assertEqual((corpus.training + corpus.validation + corpus.test).encode(), content)
        self.assertTrue(corpus.training.endswith("\n") and corpus.validation.endswith("\n"))
        self.assertAlmostEqual(len(corpus.validation) / len(content), 0.1, places=1)
        self.assertAlmostEqual(len(corpus.test) / len(content), 0.2, places=1)

    def test_nothing_is_cut_away_at_zero(self):
        corpus = self.read(b"one line", "data.validation=0", "data.test=0")
        self.assertEqual((corpus.training, corpus.validation, corpus.test), ("one line", "", ""))

    def test_files_are_joined(self):
        folder = self.folder()
        (folder / "a").write_text("a\n" * 50)
        (folder / "b").write_text("b\r\n" * 50)
        paths = [str(folder / "a"), str(folder / "b")]
        corpus = data.Corpus.read(paths, support.settings())
        self.assertEqual(corpus.training + corpus.validation + corpus.test, "a\n" * 50 + "b\r\n" * 50)
        self.assertNotEqual(corpus.digest, data.Corpus.read(paths[::-1], support.settings()).digest)

    def test_refusals(self):
        for content, fragment in (
            (b"", "no text"),
            (b" \n\t\r\n ", "no text"),
            (b"good\n\xff\n" * 50, "byte 5 is not UTF-8"),
            (b"one line only, so no line is left", "too few for data.validation"),
            (b" \n" * 500 + b"x\n" * 30, "nothing but white space"),
            ("a\u2581b\n".encode() * 50, "byte 1 begins U+2581"),
        ):
            with self.assertRaisesRegex(errors.UserError, f"text.txt.*{fragment.replace('+', '.')}"):
                self.read(content)


class Tokenizer(support.TestCase):
    ODD = (
        "",
        " ",
        "\n\n\n",
        "\t tab  spaces   end ",
        "dos\r\n\r\nlines\r\n",
        "emoji \U0001f600\U0001f468\u200d\U0001f469, \u00e9, e\u0301, \u6f22\u5b57, \u0000 zero",
        "<s></s><unk><0x41>",
        "QZXJ words that no training text had: ~`{}|",
    )

    def test_same_text_same_bytes(self):
        one, two = (data.Tokenizer.train(support.text(), 300).model for _ in range(2))
        self.assertEqual(one, two)
        other = data.Tokenizer.train(support.text(seed=2), 300).model
        self.assertNotEqual(one, other)

    def test_lossless(self):
        tokenizer = data.Tokenizer.train(support.text(), 300)
        self.assertEqual((tokenizer.size, tokenizer.bos), (300, 1))
        for odd in (*self.ODD, support.text("completely different words \u00fc", 7)):
            ids = tokenizer.encode(odd)
            self.assertEqual(tokenizer.processor.decode(ids.tolist()), odd)
            self.assertTrue(all(i > 2 for i in ids), "control tokens are no text")

    def test_pieces_hold_words_and_line_ends(self):
        tokenizer = data.Tokenizer.train(support.text(), 320)
        self.assertLess(len(tokenizer.encode(support.text())), len(support.text()) / 2)

    def test_one_endless_word(self):
        """More than the 2^16 - 1 characters at which SentencePiece ends the process."""
        tokenizer = data.Tokenizer.train("abcdefghij" * 10000, 280)
        self.assertEqual(tokenizer.size, 280)

    def test_impossible_vocabularies(self):
        for text, vocab in (("abc abc\n" * 10, 5000), ("".join(map(chr, range(0x4E00, 0x4F00))), 270)):
            with self.assertRaisesRegex(errors.UserError, f"tokenizer.vocab = {vocab}: SentencePiece cannot"):
                data.Tokenizer.train(text, vocab)

    def test_program(self):
        out = self.folder() / "new" / "tokenizer.model"
        arguments = ("--config", support.config_file(), "--data", support.data_file(), "-o", out)
        result = support.call(train_tokenizer, *arguments)
        self.assertEqual(result.code, 0, result.err)
        self.assertIn("300 pieces", result.out)
        corpus = data.Corpus.read([str(support.data_file())], support.settings())
        self.assertEqual(out.read_bytes(), data.Tokenizer.train(corpus.training, 300).model)

    def test_foreign_models_are_refused(self):
        path = self.folder() / "tokenizer.model"
        path.write_bytes(b"not a model")
        with self.assertRaisesRegex(errors.UserError, "tokenizer.model: not a SentencePiece model"):
            data.Tokenizer.load(path)
        with self.assertRaisesRegex(errors.UserError, "cannot be read: No such file"):
            data.Tokenizer.load(path.with_name("missing"))


class Batches(support.TestCase):
    def test_a_batch_is_text(self):
        ids = numpy.arange(100, 150)
        inputs, targets = data.batch(ids, 1, 64, 16, 7, 3)
        self.assertEqual((inputs.shape, targets.shape), ((64, 16), (64, 16)))
        for row in range(64):
            start = targets[row, 0] - 100
            numpy.testing.assert_array_equal(targets[row], ids[start : start + 16])
            numpy.testing.assert_array_equal(inputs[row], [1, *targets[row, :-1]])
        self.assertEqual((targets.min(), targets.max()), (100, 149))  # both ends of the text are drawn

    def test_seed_and_step_decide(self):
        ids = numpy.arange(1000)
        first = data.batch(ids, 1, 4, 8, 7, 3)[1]
        numpy.testing.assert_array_equal(first, data.batch(ids, 1, 4, 8, 7, 3)[1])
        for seed, step in ((7, 4), (8, 3)):
            self.assertFalse(numpy.array_equal(first, data.batch(ids, 1, 4, 8, seed, step)[1]))

    def test_text_of_one_sequence(self):
        _, targets = data.batch(numpy.arange(8), 1, 3, 8, 1, 1)
        numpy.testing.assert_array_equal(targets, [list(range(8))] * 3)


class Likelihood(support.TestCase):
    def test_each_id_counts_once(self):
        for count in (1, 5, 16, 17, 40):
            for context in (1, 2, 7, 16):
                for stride in {1, (context + 1) // 2, context}:
                    scored = []
                    for begin, end, first in windows(count, context, stride):
                        self.assertTrue(begin <= first < end <= begin + context)
                        self.assertTrue(begin == 0 or first - begin >= context - stride)
                        scored += range(first, end)
                    self.assertEqual(scored, list(range(count)))

    def test_against_the_definition(self):
        """Id i is foretold by the first window that reaches it, from <s> and the window's ids before i."""
        torch.manual_seed(4)
        model = BitNet(support.settings().model, 300)
        ids = torch.randint(3, 300, (45,), generator=torch.Generator().manual_seed(2)).numpy()
        for context, stride in ((16, 8), (16, 16), (11, 3), (1, 1)):
            total = 0.0
            for i, target in enumerate(ids):
                begin = 0
                while begin + context <= i:
                    begin += stride
                with torch.no_grad():
                    logits = model(torch.tensor([[1, *ids[begin:i]]]))[0, -1].double()
                total -= float(torch.log_softmax(logits, 0)[target])
            for batch in (1, 4):
                found = likelihood(model, ids, 90, 1, context, stride, batch)
                self.assertAlmostEqual(found.total_nll / total, 1.0, places=4)
            self.assertEqual((found.tokens, found.bytes), (45, 90))
            self.assertAlmostEqual(found.bits_per_byte, found.total_nll / math.log(2) / 90)
            self.assertAlmostEqual(found.perplexity, math.exp(found.total_nll / 45))

    def test_training_mode_is_restored_and_unused(self):
        model = BitNet(support.settings().model, 300)
        model.dropout = 0.5
        model.train()
        values = {likelihood(model, numpy.arange(3, 30), 30, 1, 16, 8).total_nll for _ in range(3)}
        self.assertEqual(len(values), 1)
        self.assertTrue(model.training)


if __name__ == "__main__":
    unittest.main()
