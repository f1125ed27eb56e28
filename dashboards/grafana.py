"""Boards -> Grafana's JSON, by grafana-foundation-sdk. `lastgood dashboards build` writes what is committed and provisioned.

Every board has its datasource, endpoint and version as variables, a description on each panel, verdicts as annotations, and links to the
other boards and to the service's own pages.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
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
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from lastgood.dashboards.boards import BOARDS, MINE, Board, Plot
from lastgood.record.exported import VERDICTS
from lastgood.record.verdict import State
from lastgood.settings import Settings

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(name).query(query).datasource(SOURCE)
    return made.multi(True).include_all(True).all_value(".+").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


def _annotation(name: str, expr: str, colour: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(colour).expr(expr)


def _mapping(plot: Plot) -> list[ValueMap]:
    """What values say, and in which colour."""
    words = {f"{value:g}": ValueMappingResult(text=text, color=colour) for value, (text, colour) in plot.words.items()}
    return [ValueMap(options=words)]


UNITS = {"p95": "s", "Errors": "percentunit", "Completeness": "percentunit", "Requests/s": "reqps"}
"""Of a table's columns."""


def _table(plot: Plot) -> table.Panel:
    """A row for each endpoint, a column for each query; the endpoint leads to its board."""
    made = table.Panel().title(plot.title).description(plot.doc).datasource(SOURCE).no_value(plot.empty)
    letters = {chr(65 + i): heading for i, (_, heading) in enumerate(plot.queries)}
    for letter, (expr, _) in zip(letters, plot.queries, strict=True):
        target = prometheus.Dataquery().expr(expr).ref_id(letter).datasource(SOURCE).instant()
        made = made.with_target(target.format(PromQueryFormat.TABLE))
    renamed = {"endpoint": "Endpoint"} | {f"Value #{letter}": heading for letter, heading in letters.items()}
    order = {"endpoint": 0} | {f"Value #{letter}": i for i, letter in enumerate(letters, 1)}
    made = made.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    options = {"excludeByName": {"Time": True}, "renameByName": renamed, "indexByName": order}
    made = made.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    for heading, unit in UNITS.items():
        made = made.override_by_name(heading, [DynamicConfigValue(id_val="unit", value=unit)])
    mapped = json.loads(JSONEncoder().encode(_mapping(plot)))
    coloured = {"type": "color-text"}
    cells = [
        DynamicConfigValue(id_val="mappings", value=mapped),
        DynamicConfigValue(id_val="custom.cellOptions", value=coloured),
    ]
    made = made.override_by_name("Verdict", cells)
    link = {"title": "its board", "url": "/d/lastgood-endpoint?var-endpoint=${__value.text}&${__url_time_range}"}
    made = made.override_by_name("Endpoint", [DynamicConfigValue(id_val="links", value=[link])])
    return made.span(plot.width).height(plot.height)


def _panel(plot: Plot) -> stat.Panel | timeseries.Panel | table.Panel:
    if plot.kind == "table":
        return _table(plot)
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
    if plot.words:
        made = made.mappings(_mapping(plot))
    made = (
        made.no_value(plot.empty)
        .title(plot.title)
        .description(plot.doc)
        .unit(plot.unit)
        .datasource(SOURCE)
        .thresholds(thresholds)
    )
    for i, (expr, legend_text) in enumerate(plot.queries):
        target = prometheus.Dataquery().expr(expr).legend_format(legend_text).ref_id(chr(65 + i)).datasource(SOURCE)
        made = made.with_target(target)
    return made.span(plot.width).height(plot.height)


def annotations(scoped: bool) -> list[tuple[str, str, str]]:
    """(name, PromQL, colour) of what is marked over a board's plots: of the endpoints that are chosen, where the board has them to choose."""
    of = f"{{{MINE}}}" if scoped else ""
    now, before = (f"sum by (endpoint, model_version) (lastgood_requests_total{of}{ago})" for ago in ("", " offset 5m"))
    marked = [
        ("Rollback verdicts", f"lastgood_verdict{of} == {VERDICTS[State.ROLL_BACK]}", "red"),
        ("Pages", f"lastgood_verdict{of} == {VERDICTS[State.PAGE]}", "orange"),
    ]
    return [*marked, ("Deploys", f"{now} unless {before}", "blue")] if scoped else marked


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
    runbooks = dashboard.DashboardLink("Runbooks").type(DashboardLinkType.LINK).url(settings.runbooks)
    made = made.link(runbooks.target_blank(True))
    for name, expr, colour in annotations(board.scoped):
        made = made.annotation(_annotation(name, expr, colour))
    for plot in board.plots(settings.default.policy):
        made = made.with_panel(_panel(plot))
    document = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    for annotation in document["annotations"]["list"]:
        annotation["titleFormat"] = "{{endpoint}} version {{model_version}}"  # the SDK has no such field
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def write(settings: Settings, out: Path) -> list[Path]:
    """All boards as OUT/UID.json."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for board in BOARDS:
        path = out / f"{board.uid}.json"
        path.write_text(build(board, settings))
        written.append(path)
    return written
