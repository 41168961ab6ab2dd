"""VLMEvalKit's own scorers, run by the Python of an environment that has ms-vlmeval 0.0.20 without its dependencies.

    python vlmevalkit.py REQUEST.json ANSWER.json

Its packages' `__init__` modules, which import every model and switch off the checks of TLS certificates, are replaced
by empty ones. Nothing of UniMRG is imported.
"""

import ast
import json
import os
import string
import sys
import tempfile
import types
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

os.environ["PRED_FORMAT"] = "tsv"
ROOT = Path(next(iter(find_spec("vlmeval").submodule_search_locations)))
for name in ("vlmeval", "vlmeval.dataset", "vlmeval.dataset.utils", "vlmeval.utils", "vlmeval.vlm"):
    package = types.ModuleType(name)
    package.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = package
can_infer = import_module("vlmeval.utils.matching_util").can_infer
sys.modules["vlmeval.utils"].can_infer = can_infer
sys.modules["vlmeval.utils"].can_infer_lego = import_module("vlmeval.utils.matching_util").can_infer_lego
sys.modules["vlmeval.utils"].track_progress_rich = lambda function, tasks, save, keys, **_: one_after_the_other(
    function, tasks, save, keys
)
ImageBaseDataset = import_module("vlmeval.dataset.image_base").ImageBaseDataset
multiple_choice, yorn = (import_module(f"vlmeval.dataset.utils.{name}") for name in ("multiple_choice", "yorn"))
smp = import_module("vlmeval.smp")
dump, load = smp.dump, smp.load


def one_after_the_other(function, tasks, save, keys):
    results = [function(**task) for task in tasks]
    dump({**(load(save) if Path(save).exists() else {}), **dict(zip(keys, results, strict=True))}, save)
    return results


def choice(request):
    return can_infer(request["reply"], dict(request["options"])) or ""


def yes_no(reply):
    found = yorn.YOrN_Extraction(reply)
    return "" if found == "Unknown" else found


def multiple_choice_scores(request, folder):
    """As ImageMCQDataset.evaluate_heuristic with exact matching, every table through a file."""
    meta = load(request["questions"])
    data = load(request["predictions"])
    data = data.sort_values(by="index")
    data["prediction"] = [str(x) for x in data["prediction"]]
    for key in list(data):
        data[key.lower() if key not in list(string.ascii_uppercase) else key] = data.pop(key)
    benchmark = request["benchmark"]

    def scored(name, evaluate, rows):
        dump(evaluate(None, rows.copy(), meta, 1, f"{folder}/{name}.pkl", "RealWorldQA"), f"{folder}/{name}.tsv")
        return load(f"{folder}/{name}.tsv")

    if benchmark != "mmbench":
        report = multiple_choice.report_acc_MMVP if benchmark == "mmvp" else multiple_choice.report_acc
        dump(report(scored("all", multiple_choice.mcq_vanilla_eval, data)), f"{folder}/acc.csv")
        return [f"{folder}/acc.csv"]
    tables = {
        "vanilla_0": scored("vanilla_0", multiple_choice.mcq_vanilla_eval, data[data["index"] < 1e6]),
        "vanilla_all": scored("vanilla_all", multiple_choice.mcq_vanilla_eval, data),
        "circular": scored("circular", multiple_choice.mcq_circular_eval, data),
    }
    tables = {name: multiple_choice.report_acc(table) for name, table in tables.items()}
    dump(tables["circular"], f"{folder}/acc.csv")
    for name, table in tables.items():
        table["split"] = [f"{name}_{split}" for split in table["split"]]
    dump(pd.concat(tables.values()), f"{folder}/acc_all.csv")
    return [f"{folder}/acc.csv", f"{folder}/acc_all.csv"]


def yes_no_scores(request, folder):
    """As ImageYORNDataset.evaluate with exact matching."""
    data = load(request["predictions"])
    data["prediction"] = [str(x) for x in data["prediction"]]
    data["extracted"] = [yorn.YOrN_Extraction(x) for x in data["prediction"]]
    data["score"] = data["answer"] == data["extracted"]
    dump(data, f"{folder}/auxmatch.tsv")
    rating = {"hallusionBench": yorn.Hallusion_rating, "vsr": yorn.VSR_rating}.get(
        request["benchmark"], yorn.default_rating
    )
    dump(rating(f"{folder}/auxmatch.tsv"), f"{folder}/score.csv")
    return [f"{folder}/score.csv"]


def functions(path, wanted):
    """Return functions of a module that is too heavy to import, compiled alone."""
    tree = ast.parse((ROOT / path).read_text())
    found = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):  # of several functions of one name the one of the class that is asked for
        if isinstance(node, ast.ClassDef) and wanted.startswith(f"{node.name}."):
            found = {inner.name: inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
            break
    name = wanted.rpartition(".")[2]
    space = {"string": string, "pd": pd, "toliststr": smp.toliststr, "cn_string": smp.cn_string}
    exec(compile(ast.Module([found[name]], []), path, "exec"), space)
    return space[name]


def prompts(path):
    """Read a table of questions as VLMEvalKit does, and return each row's prompts and the length of its image."""

    class Questions(ImageBaseDataset):
        def load_data(self, dataset):
            return load(path)

        evaluate = None  # abstract there

    data = Questions("made-up")
    data.dump_image = lambda line: "image"
    default = functions("dataset/image_mcq.py", "ImageMCQDataset.build_prompt")
    internvl = functions("vlm/internvl/utils.py", "build_multi_choice_prompt")
    return {
        str(data.data.iloc[i]["index"]): {
            "default": default(data, i)[-1]["value"],
            "internvl": internvl(data.data.iloc[i]),
            "image": len(data.data.iloc[i]["image"]),
        }
        for i in range(len(data.data))
    }


def main(request_path, answer_path):
    request = json.loads(Path(request_path).read_text())
    answer = {
        "choices": [choice(one) for one in request.get("choices", [])],
        "yes_no": [yes_no(one) for one in request.get("yes_no", [])],
        "prompts": [prompts(one) for one in request.get("prompts", [])],
        "tables": [],
    }
    for one in request.get("tables", []):
        folder = tempfile.mkdtemp(dir=Path(answer_path).parent)
        score = yes_no_scores if one["kind"] == "YesNo" else multiple_choice_scores
        answer["tables"].append(score(one, folder))
    Path(answer_path).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
