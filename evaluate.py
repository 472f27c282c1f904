"""Judge weights: python evaluate.py weights=<run, export, .ckpt or .safetensors> [data=... split=test +model.key=value ...]

Without data= the run's own data set is taken, with the settings of its config.yaml. A method that needs no training is judged
without weights: python evaluate.py model=ssp data=demo_episodes.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import UserError, door


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "configs"), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    door(lambda: run(OmegaConf.to_container(cfg, resolve=True)))


def run(cfg: dict) -> dict[str, float]:
    """Figures of `weights` on a split as fractions; also written beside the weights, or in `out`."""
    from callbacks.trainer import build_trainer, judge
    from datamodules.settings import make
    from zoo import hub, report, runs

    runs.check(cfg)
    untrained = not cfg["weights"]
    if untrained and not {"_target_"} <= cfg["model"].keys() & cfg["data"].keys():
        mend = "python evaluate.py weights=<run>; or model=ssp data=<set>, of what needs no training"
        raise UserError("no weights to judge", mend=mend)
    if untrained:
        data = make(cfg["data"])
        model = hub.build(cfg["model"], data.classes, data.palette, data.ignore)
    else:
        model = hub.load(cfg["weights"], cfg["model"])
        cfg = runs.with_run_data(cfg)
        data = make(cfg["data"])
    model.check_data(data)
    model.take_classes(data.classes, data.palette, cfg["weights"])
    model.inference = make(cfg["inference"])

    out = Path(cfg["out"] or ("." if untrained else hub.find(cfg["weights"]).parent))
    trainer = build_trainer(cfg, out, training=False)
    results = {"ours": report.grouped(judge(trainer, model, data, cfg["split"]), data)}
    results |= report.published(model, data.name, cfg["split"])
    weights = {} if untrained else {"weights": str(cfg["weights"]), "sha256": hub.sha256(cfg["weights"])}
    source = weights | {"data": data.name, **runs.environment()}
    path = report.write_results(out, results, source | {"inference": cfg["inference"]}, f"evaluation_{cfg['split']}.json")
    report.print_table(f"{data.name} {cfg['split']}", results)
    for line in model.closing(data, out) if cfg["closing"] else ():
        print(line)
    print(f"figures: {path}")
    return results["ours"]


if __name__ == "__main__":
    main()
