"""Train a method: python train.py model=massformer key=value ...

The story of a run, top to bottom. Nothing here knows a method by name.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import door


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "configs"), config_name="train")
def main(cfg: DictConfig) -> None:
    door(lambda: run(OmegaConf.to_container(cfg, resolve=True)))


def run(cfg: dict) -> dict[str, dict[str, float]]:
    """One run of a plain, resolved config, or an experiment's stages.

    Returns the run's figures as fractions: {"untrained": {...}, "trained": {...}}.
    """
    from callbacks.checkpoint import check_monitor, resume_point
    from callbacks.panels import save_panels
    from callbacks.trainer import build_trainer, fit, judge, start_seed
    from datamodules.settings import make
    from zoo import hub, pipeline, report, runs

    if "stages" in cfg:
        return pipeline.run(cfg)
    cfg = runs.resumed(cfg) if cfg["resume"] else runs.check(cfg)
    data = make(cfg["data"])
    data.setup("fit")
    start_seed(cfg["seed"])
    model = hub.build(cfg["model"], data.classes, data.palette, data.ignore)
    model.inference = make(cfg["inference"])
    if cfg.get("compile"):                                   # runs of older versions have no such key
        model.compile()
    model.check_data(data)
    check_monitor(cfg["save"]["monitor"], model)
    if cfg["init"]:
        hub.initialise(model, cfg["init"])

    with runs.opened(cfg, data.name) as folder:
        trainer = build_trainer(cfg, folder)
    print(f"run: {folder}", flush=True)
    results = report.read_results(folder)
    if cfg["untrained"] and "untrained" not in results:
        results["untrained"] = judge(trainer, model, data, "val")
        report.write_results(folder, results)
    data.wrap = model.wrap
    fit(trainer, model, data, resume_point(folder))

    hub.fit(model, *hub.best_of(folder))
    results["trained"] = report.grouped(judge(trainer, model, data, "val"), data)
    if trainer.is_global_zero:
        results |= report.published(model, data.name, "val")
        source = {"run": str(folder), "seed": cfg["seed"], "data": data.name, **runs.environment()}
        hub.export(model, folder, source)
        report.write_results(folder, results, source)
        report.print_table(f"{data.name} val", results)
        print(f"picture: {save_panels(model, data.source('val'), folder / 'panels' / 'final.png')}")
        for line in model.closing(data, folder):
            print(line)
        print(f"figures: {folder / report.RESULTS}\nweights: {folder}")
    return results


if __name__ == "__main__":
    main()
