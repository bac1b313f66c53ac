from models import _body as _body
from models import _compartments as _compartments
from models import _niche_antigens as _niche_antigens
from models import _niche_cure as _niche_cure
from models import _niche_exhaustion as _niche_exhaustion
from models import _niche_graft as _niche_graft
from models import _niche_immunity as _niche_immunity
from models import _niche_parts as _niche_parts
from models import _niche_switches as _niche_switches
from models import _variants as _variants
from models import ahamadi2017 as ahamadi2017
from models import friberg2002 as friberg2002
from models import hu2024_nivolumab as hu2024_nivolumab
from models import kimmel2021 as kimmel2021
from models import langenhorst2019 as langenhorst2019
from models import piecewise as piecewise

def first_line(doc: str) -> str: ...
