"""Boards -> Grafana's JSON, by grafana-foundation-sdk. `lastgood dashboards build` writes what is committed and provisioned.

Every board has its datasource, endpoint and version as variables, a description on each panel, verdicts as annotations, and links to the
other boards and to the service's own pages.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

from lastgood.dashboards.boards import BOARDS, Board, Plot
from lastgood.record.exported import VERDICTS
from lastgood.record.verdict import State
from lastgood.settings import Settings

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(name).query(query).datasource(SOURCE)
    return made.multi(True).include_all(True).all_value(".+").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


def _annotation(name: str, expr: str, colour: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(colour).expr(expr)


def _panel(plot: Plot) -> stat.Panel | timeseries.Panel:
    steps = [Threshold(value=None, color="green")]
    steps += [] if plot.limit is None else [Threshold(value=plot.limit, color="red")]
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    made: stat.Panel | timeseries.Panel
    if plot.kind == "number":
        made = stat.Panel().color_mode(BigValueColorMode.VALUE)
    else:
        legend = (
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        made = timeseries.Panel().line_width(2).fill_opacity(5).legend(legend)
        made = made.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        if plot.limit is not None:
            made = made.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    made = made.title(plot.title).description(plot.doc).unit(plot.unit).datasource(SOURCE).thresholds(thresholds)
    for i, (expr, legend_text) in enumerate(plot.queries):
        target = prometheus.Dataquery().expr(expr).legend_format(legend_text).ref_id(chr(65 + i)).datasource(SOURCE)
        made = made.with_target(target)
    return made.span(plot.width).height(plot.height)


def build(board: Board, settings: Settings) -> str:
    """One board as JSON text."""
    made = dashboard.Dashboard(board.title).uid(board.uid).description(board.doc).tags(["lastgood"]).editable()
    made = made.time("now-6h", "now").refresh("1m").tooltip(DashboardCursorSync.CROSSHAIR)
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("datasource").type("prometheus"))
    if board.scoped:
        made = made.with_variable(_variable("endpoint", "label_values(lastgood_requests_total, endpoint)"))
        made = made.with_variable(
            _variable("version", 'label_values(lastgood_requests_total{endpoint=~"$endpoint"}, model_version)')
        )
    boards = (
        dashboard.DashboardLink("Lastgood boards")
        .type(DashboardLinkType.DASHBOARDS)
        .tags(["lastgood"])
        .as_dropdown(True)
    )
    pages = dashboard.DashboardLink("Evidence pages").type(DashboardLinkType.LINK).url(settings.web.base_url)
    made = made.link(boards.keep_time(True).include_vars(True)).link(pages.target_blank(True))
    made = made.annotation(_annotation("Rollback verdicts", f"lastgood_verdict == {VERDICTS[State.ROLL_BACK]}", "red"))
    made = made.annotation(_annotation("Pages", f"lastgood_verdict == {VERDICTS[State.PAGE]}", "orange"))
    for plot in board.plots(settings.default.policy):
        made = made.with_panel(_panel(plot))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(made.build())), indent=1, sort_keys=True) + "\n"


def write(settings: Settings, out: Path) -> list[Path]:
    """All boards as OUT/UID.json."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for board in BOARDS:
        path = out / f"{board.uid}.json"
        path.write_text(build(board, settings))
        written.append(path)
    return written
