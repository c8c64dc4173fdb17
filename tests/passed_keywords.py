"""Which keywords the kit passes to TRL, PEFT and Unsloth, read from its own source: a list kept by hand would
not know of the next one."""

import ast
import inspect
from pathlib import Path

import finer1_lib

# Callee as written in the kit -> where its signature is found.
CALLEES = {
    "trl.SFTConfig": "trl.SFTConfig",
    "trl.GRPOConfig": "trl.GRPOConfig",
    "make_sft_trainer_class()": "trl.SFTTrainer",
    "make_tapo_trainer_class()": "trl.GRPOTrainer",
    "peft.LoraConfig": "peft.LoraConfig",
    "peft.get_peft_model": "peft.get_peft_model",
    "peft.set_peft_model_state_dict": "peft.set_peft_model_state_dict",
    "FastVisionModel.from_pretrained": "unsloth.FastVisionModel.from_pretrained",
    "FastVisionModel.get_peft_model": "unsloth.FastVisionModel.get_peft_model",
    "loaded.model.save_pretrained_merged": "unsloth.save_pretrained_merged",
}


def passed() -> dict[str, dict[str, int]]:
    """{where the signature is found: {"positional": largest number, "keywords": names}} of all calls.

    Raises:
        AssertionError: a `**` that cannot be followed: its keywords would go unchecked.
    """
    trees = [ast.parse(file.read_text(encoding="utf-8"))
             for file in sorted(Path(finer1_lib.__file__).parent.rglob("*.py"))]
    functions = {node.name: node for tree in trees for node in ast.walk(tree)
                 if isinstance(node, ast.FunctionDef)}
    found: dict[str, dict] = {target: {"positional": 0, "keywords": set()} for target in CALLEES.values()}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in CALLEES:
                cell = found[CALLEES[name]]
                cell["positional"] = max(cell["positional"], len(node.args))
                cell["keywords"] |= _keywords(node, functions)
    return found


def _keywords(call: ast.Call, functions: dict[str, ast.FunctionDef]) -> set[str]:
    """A call's keywords; `**function(...)` is followed into the `dict(...)` that the function returns."""
    names: set[str] = set()
    for keyword in call.keywords:
        if keyword.arg is not None:
            names.add(keyword.arg)
            continue
        assert isinstance(keyword.value, ast.Call), f"cannot follow **{ast.unparse(keyword.value)}"
        function = functions[ast.unparse(keyword.value.func).rpartition(".")[2]]
        returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        assert len(returned) == 1 and isinstance(returned[0], ast.Call), function.name
        assert ast.unparse(returned[0].func) == "dict", function.name
        names |= _keywords(returned[0], functions)
    return names


def accepted(callable_: object) -> list[str]:
    """Names of the parameters of a callable, and of what it takes out of its `**kwargs` by name."""
    names = [name for name, parameter in inspect.signature(callable_).parameters.items()
             if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)]
    if len(names) < len(inspect.signature(callable_).parameters):
        for node in ast.walk(ast.parse(inspect.cleandoc("\n" + inspect.getsource(callable_)))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("kwargs.get", "kwargs.pop") and (
                    isinstance(node.args[0], ast.Constant)):
                names.append(ast.literal_eval(node.args[0]))
    return sorted(set(names))


def of_the_kits_own(trainer: type, base: type) -> set[str]:
    """Keywords of a trainer's `__init__` that the kit's class takes itself and does not hand on."""
    own = inspect.signature(trainer.__init__).parameters.values()
    return {p.name for p in own if p.kind is p.KEYWORD_ONLY} - set(accepted(base))
