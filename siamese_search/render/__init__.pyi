"""What commands and verbs draw, each with its home; at run time :mod:`lazy_loader` reads them here."""

from .curves import Plot as Plot
from .curves import draw_curves as draw_curves
from .curves import plot_report as plot_report
from .map import draw_map as draw_map
from .map import write_map_page as write_map_page
from .pages import environment as environment
from .pages import results_html as results_html
from .pages import write_html_sheet as write_html_sheet
from .report import report_html as report_html
from .report import write_report as write_report
from .report import write_report_page as write_report_page
from .sheets import draw_clusters as draw_clusters
from .sheets import draw_comparison as draw_comparison
from .sheets import draw_sheet as draw_sheet
from .star import draw_star as draw_star
from .sweep import draw_sweep as draw_sweep
from .timeline import draw_timelines as draw_timelines
from .timeline import write_timeline_page as write_timeline_page
