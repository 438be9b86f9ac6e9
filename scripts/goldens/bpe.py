"""test/goldens/bpe_tokenizers.json: byte-level BPE tokenizers as Hugging Face's library makes and applies them.

    pip install tokenizers && python scripts/goldens/bpe.py test/goldens/bpe_tokenizers.json
"""

import json
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CAPTIONS = [
    "a red circle moves left over a plain background",
    "a Red SQUARE moves right, over 12345 stripes",
    "don't WE'LL they've  two   spaces\n\nnew lines\tTab",
    "naïve café 漢字 🙂 12 1234567",
    "a large green circle spirals over a striped background",
    "É e\u0301 ﬁ Å",
] * 3
TEXTS = [
    "a red circle moves left",
    "DON'T stop, we'Ll see 98765 times",
    "  leading and trailing  ",
    "x\n\n\n y\t\tz\r\n",
    "naïve 漢字🙂 e\u0301 ﬁne",
    "a red<eos> circle <mask> now",
    "price: $1,234.56!?",
    "\u00a0nbsp\u0085nel\u3000wide",
    "",
    " ",
    "ÅÉ",
]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDINGS}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make(name, pre_tokenizer, normalizer=None, whole_words=False, extra=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    if extra:
        tokenizer.add_special_tokens([extra])
    file = json.loads(tokenizer.to_str())
    if whole_words:
        file["model"]["ignore_merges"] = True
        tokenizer = Tokenizer.from_str(json.dumps(file))
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    decoded = [tokenizer.decode(one, skip_special_tokens=False) for one in ids]
    return {"name": name, "file": file, "ids": ids, "decoded": decoded}


def cut_by(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False)
digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_only])
folded = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
mask = AddedToken("<mask>", lstrip=True, special=True)
made = [
    make("GPT-2", bytes_only),
    make("with a space before", pre_tokenizers.ByteLevel(add_prefix_space=True), extra=mask),
    make("Llama 3", cut_by(LLAMA_3), whole_words=True),
    make("GPT-4o", cut_by(GPT_4O)),
    make("digits, NFC", digits, normalizer=normalizers.NFC()),
    make("lower case, NFKC", bytes_only, normalizer=folded),
]
source = f"tokenizers {tokenizers.__version__} (Hugging Face), each trained on six lines; no post-processor"
with open(sys.argv[1], "w") as out:
    json.dump({"source": source, "texts": TEXTS, "tokenizers": made}, out)
