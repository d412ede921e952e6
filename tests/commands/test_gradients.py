"""`prdp-hpc gradients`: errors decrease with K, equal those of the truncated solves, and do not
depend on the number of ranks.
"""

import json
from contextlib import nullcontext

import pytest
import tiny

from prdp_hpc import cli


def inverse(output):
    """Three modes, since a single one is an eigenvector, for which Krylov methods converge in one
    iteration.
    """
    section = {"modes": 3, "reference": [2.0, -1.0, 1.5], "start": [5.0, 1.0, -1.0]}
    return tiny.inverse(output, inverse=section)


def errors(folder, name, kinds=("implicit", "unrolled")):
    """The content of the command's file, after a check that the figure exists."""
    folder = folder / f"{name}-gradients"
    assert (folder / "figures" / "gradients.png").stat().st_size > 5000
    content = json.loads((folder / "gradients.json").read_text())
    assert set(content["errors"]) == set(kinds)
    assert all(len(column) == len(content["levels"]) for column in content["errors"].values())
    return content["levels"], content["errors"]


@pytest.mark.parametrize(
    ("content", "name", "stop"), [(inverse, "tiny_inverse", 12), (tiny.emulator, "tiny", 8)]
)
def test_both_differentiations_converge(tmp_path, capsys, content, name, stop):
    config = tiny.write(tmp_path / "c.yaml", content(tmp_path))
    ladder = {"kind": "iterations", "start": 1, "stop": stop}
    cli.main(
        [
            "gradients",
            config,
            "solver.ksp=steepest_descent",
            f"refinement.ladder={json.dumps(ladder)}",
        ]
    )
    levels, found = errors(tmp_path, name)
    assert levels == list(range(1, stop + 1))
    printed = capsys.readouterr().out
    row = [f"{levels[-1]}", *(f"{found[key][-1]:.2e}" for key in ("implicit", "unrolled"))]
    assert row in [line.split() for line in printed.splitlines()]
    for column in found.values():
        assert column[-1] < 0.5 * column[0]
        assert min(column) > 1e-13
    # Jacobi's method would give the same gradient in both ways here; a method that is not linear in
    # b does not.
    assert found["implicit"] != pytest.approx(found["unrolled"], rel=1e-3)


def burgers(output):
    """A corrector with matrices that depend on the state."""
    physics = {
        "physics": {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05},
        "grid": {"shape": [12], "boundary": "periodic"},
    }
    return tiny.corrector(output, **physics, network={"kind": "resnet", "channels": 4, "blocks": 1})


def test_a_corrector_whose_matrices_depend_on_the_state(tmp_path):
    config = tiny.write(tmp_path / "c.yaml", burgers(tmp_path))
    ladder = 'refinement.ladder={"kind": "iterations", "stop": 12}'
    cli.main(["gradients", config, "solver.ksp=gmres", ladder])
    _, found = errors(tmp_path, "tiny_corrector")
    for column in found.values():
        assert 1e-3 < column[0] < 1.0
        # GMRES converges after as many iterations as there are unknowns, so both ways end at the
        # converged gradient.
        assert column[-1] < 1e-9
    assert found["implicit"][:6] != pytest.approx(found["unrolled"][:6], rel=1e-3)


NEWTON = {
    "allen_cahn": {"interface": 0.2, "dt": 0.5, "newton": {"inner": 1e-10}},
    "burgers": {"viscosity": 1e-2, "dt": 0.2, "nonlinear": "newton", "newton": {"inner": 1e-10}},
}


@pytest.mark.parametrize("pde", NEWTON)
def test_newton_iterations_have_implicit_gradients_only(tmp_path, capsys, pde):
    sections = {"physics": {"pde": pde, **NEWTON[pde]}, "solver": {"ksp": "gmres", "pc": "jacobi"}}
    content = tiny.emulator(tmp_path, **sections)
    content["grid"] = {"shape": [12], "boundary": "periodic"}
    config = tiny.write(tmp_path / "c.yaml", content)
    cli.main(["gradients", config, 'refinement.ladder={"kind": "iterations", "stop": 4}'])
    levels, found = errors(tmp_path, "tiny", ["implicit"])
    assert levels == [1, 2, 3, 4]
    assert found["implicit"][-1] < 1e-6 < 1e-4 < found["implicit"][0]
    assert "unrolled" not in capsys.readouterr().out


def test_richardson_is_self_adjoint_and_many_levels_are_thinned(tmp_path):
    config = tiny.write(tmp_path / "c.yaml", tiny.inverse(tmp_path))
    cli.main(["gradients", config, 'refinement.ladder={"kind": "iterations", "stop": 200}'])
    levels, found = errors(tmp_path, "tiny_inverse")
    assert (levels[0], levels[-1]) == (1, 200)
    assert 15 < len(levels) <= 25
    assert all({level - 1, level + 1} & set(levels) for level in levels)
    assert found["implicit"] == pytest.approx(found["unrolled"], rel=1e-6, abs=1e-10)


def test_mistakes(tmp_path, capsys):
    for content, changes, words in (
        (tiny.inverse, ['refinement.ladder={"kind": "tolerances"}'], "ladder of tolerances"),
        (
            tiny.inverse,
            ["solver.ksp=minres"],
            "richardson, steepest_descent, cg, gmres, bcgs, not 'minres'",
        ),
        (
            burgers,
            ["solver.ksp=gmres", "solver.pc=ilu"],
            "cannot differentiate the set-up of pc='ilu'",
        ),
        (tiny.inverse, ["solver.differentiation=unroled"], "'implicit' or 'unrolled'"),
    ):
        config = tiny.write(tmp_path / "c.yaml", content(tmp_path))
        with pytest.raises(SystemExit) as ended:
            cli.main(["gradients", config, *changes])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def test_a_method_that_cannot_be_unrolled_is_reported_before_anything_is_written(tmp_path, capsys):
    config = tiny.write(tmp_path / "c.yaml", tiny.emulator(tmp_path))
    for ksp, code in (("minres", 2), ("cg", None)):
        with pytest.raises(SystemExit) if code else nullcontext() as ended:
            cli.main(["run", config, "solver.differentiation=unrolled", f"solver.ksp={ksp}"])
        assert code is None or ended.value.code == code
        assert (tmp_path / "tiny" / "metrics.jsonl").exists() == (code is None)
        assert capsys.readouterr().err.count("not 'minres'") == (code is not None)


def test_several_ranks_give_the_same(tmp_path, two_ranks):
    replicas = ["solver.ksp=gmres", "parallel.grid_ranks=1"]
    names, lines = ("tiny_inverse", "tiny_corrector"), []
    for content, name, split in zip(
        (inverse, burgers), names, (["solver.ksp=cg"], replicas), strict=True
    ):
        config = tiny.write(tmp_path / f"{name}.yaml", content(tmp_path))
        ladder = 'refinement.ladder={"kind": "iterations", "stop": 4}'
        lines.append(["gradients", config, ladder, *split])
        cli.main([*lines[-1], f"output={tmp_path / 'one'}"])
    for done in two_ranks([[*words, f"output={tmp_path / 'two'}"] for words in lines]):
        assert done.codes == [0, 0], done.stderr
    for name in names:
        one, two = (errors(tmp_path / folder, name)[1] for folder in ("one", "two"))
        for differentiation in one:
            assert two[differentiation] == pytest.approx(one[differentiation], rel=1e-6, abs=1e-10)


def test_training_through_the_iterations(tmp_path):
    config = tiny.write(tmp_path / "c.yaml", inverse(tmp_path))
    for differentiation in ("implicit", "unrolled"):
        changes = [
            f"solver.differentiation={differentiation}",
            "solver.ksp=cg",
            "training.learning_rate=1",
            "refinement.ladder.start=1",
        ]
        cli.main(["run", config, f"name={differentiation}", *changes])
    rows = [tiny.rows(tmp_path / differentiation) for differentiation in ("implicit", "unrolled")]
    assert rows[0] != rows[1]
    assert [row["forward_iterations"] for row in rows[0]] == [
        row["forward_iterations"] for row in rows[1]
    ]
