"""Words of word problems and of mathematics: which mean the same, and how much a shared one tells.

    synonyms     buy ~ purchase    child ~ kid    altogether ~ total    dodecagon ~ polygon
    weight       apple 1    day 1/2    (by `same` a name 1/4)

The table was written by hand from what such questions commonly say, in part after reading rewritings that were missed (tuning
cases). A word may stand in several groups, since it has several
meanings, and some groups hold words that are only near one another: that two words share a group proves nothing, it makes two
texts a little less different. This file does not know texts, nor which words are contraries (`opposites` does).
"""

from __future__ import annotations

from functools import lru_cache

from headway.problems.likeness.reading import stem

_SYNONYMS = """
    buy purchase acquire get shop order; sell vend market; pay spend cost charge fee price bill outlay expense; price priced
    rate cost tag run; cheap inexpensive; expensive dear dearer costly pricey; money cash fund dollar bucks; bill note; coin
    penny cent; earn make receive gain get wage income paid; wage salary pay income earnings remuneration; tip gratuity;
    discount off rebate reduction markdown; refund reimburse; owe debt; save put aside; profit gain earnings; loan borrow;
    rent lease hire; customer client shopper buyer patron; store shop market outlet supermarket grocery; seller vendor
    shopkeeper merchant dealer; budget allowance; annual yearly year twelvemonth; daily day everyday; weekly week; monthly
    month; hourly hour; minute min; morning dawn; evening night; noon midday; today now present presently currently; begin
    start commence initial launch open outset; initially originally first start begin beginning; finish end complete conclude
    final over; stop cease halt quit; continue keep go proceed remain; last previous prior past preceding; next following
    subsequent; later afterwards then after; previously earlier before already; long length duration lengthy; wait await;
    happen occur; leave depart go exit; arrive reach come get; return back; travel go drive journey trip ride move commute;
    walk stroll hike foot; run jog race sprint; fast quick rapid speed pace; speed rate velocity pace; distance far way apart
    length; bicycle bike cycle; car automobile vehicle auto; truck lorry; plane airplane aircraft; boat ship vessel; road
    street route path; trip journey travel voyage tour vacation holiday outing; vacation holiday break; visit tour; carry
    transport haul bring; deliver delivery ship shipping bring; child kid youngster; boy lad; baby infant; adult grownup;
    person people individual man someone human; man guy; woman lady; father dad; mother mom mum; brother sibling; sister
    sibling; grandmother grandma; grandfather grandpa; friend pal buddy mate companion; family household relative; guest
    visitor attendee invite; student pupil learner; teacher instructor; class classroom course; employee worker staff people;
    employer boss; manager management managers supervisor; company firm business corporation enterprise; job work task chore
    labor; work labor operate toil; doctor physician; passenger rider traveler; team squad side; member people; crowd audience
    spectator attend; attend participate come go show; participant contestant competitor entrant; contest competition
    tournament; win victory; game match; score point mark; grade mark score; test exam quiz; class lesson; eat consume devour;
    drink beverage; food meal; meal dinner lunch supper; dinner supper; cook prepare make; bake prepare make; snack treat
    refreshment; candy sweet; cookie biscuit; soda pop; piece slice portion part bit; slice cut piece; serve serving portion;
    dish plate; taste flavor; give hand donate offer present pass grant provide; gift present; share split divide distribute;
    divide split share separate partition; equally evenly equal same fairly; distribute spread allocate give; receive get
    obtain accept; borrow lend; keep retain hold stay; lose misplace; find discover; throw toss hurl fling; drop fall; pick
    gather collect harvest choose pluck; gather collect pick assemble accumulate; collect collection; harvest crop yield;
    choose select pick draw random; add put plus further additional include; remove take subtract away out; put place set
    insert lay position; place spot location position; fill full load; empty drain; use utilize employ consume need require;
    need require necessary must; want wish like desire; like prefer love enjoy; own have possess belong hold keep property;
    contain hold include have comprise consist; consist comprise contain make; make produce create build manufacture craft;
    build construct erect; grow increase rise raise; increase raise rise grow up gain; decrease reduce drop lower fall cut
    decline shrink; change alter modify; exchange swap trade; replace substitute; fix repair mend; clean wash tidy; wash rinse
    laundry; cut chop slice trim; tear rip; close shut; cover wrap; turn rotate; sit seat chair; seat chair place; sleep nap;
    page sheet; watch view see; see notice observe; show display exhibit; tell say inform; ask request inquire; answer reply
    response solution; think believe; plan intend decide want; try attempt; help assist aid; call phone; send mail; live
    reside inhabit; stay remain; bear born; house home residence dwelling; home house; room chamber; floor level storey;
    garden yard; farm ranch; farmer grower; plant grow sow; flower bloom blossom; animal creature; dog puppy; cat kitten;
    chicken hen; cow cattle; forest wood; river stream; lake pond; big large huge; small little tiny; tall high height; wide
    broad width; heavy weigh weight; weigh weight heavy mass; old age aged older; deep depth; double twice; triple thrice;
    pair couple two; several few; many numerous; lot plenty; enough sufficient; full complete whole; whole entire complete all
    overall full; entire whole total; total sum altogether combined overall whole entire; sum total add plus; together jointly
    combined; each every apiece per individual; different distinct various unlike; same equal identical alike; equal same
    equivalent; only just single; single one only individual alone; additional extra more further another; remain leave rest
    left leftover remainder still; rest remainder remaining other; exactly precisely; approximately about roughly around
    nearly; usually normally typically usual regular; normal regular ordinary usual; average mean typical; percent percentage;
    fraction part portion share; portion part share; part section segment; number count quantity amount; amount quantity sum;
    set group collection; group bunch team party; box carton case package crate; bag sack pack; package packet pack; jar
    container; container vessel; bucket pail; bundle package; cup glass mug; can tin; pile stack heap; row line; line row
    queue; shelf rack; kind type sort variety; color colored; shape form; size dimension; rectangle rectangular; circle
    circular round; cube cubic; triangle triangular; film movie; theater cinema; show concert performance; song music track;
    photo picture photograph; picture image drawing figure diagram; book novel; store keep; ticket admission; entry admission;
    computer laptop pc; phone telephone cellphone; television tv; cloth fabric material; clothes clothing garment; shoe
    footwear boot; backpack bag; jacket coat; hat cap; gas gasoline fuel petrol; fuel gas; trash garbage rubbish; worth value;
    cost price; message text; post publish; subscribe subscription; cancel drop; sign register enroll; lawn grass; mow cut;
    jump leap hop; train practice exercise; practice rehearse; exercise workout; run manage; join enter; succeed success;
    result outcome; goal target aim objective; target goal; reach attain achieve; allow permit let; possible able can; able
    can; dead die; sick ill; near close next adjacent; adjacent next beside neighboring side; inside within; opposite facing;
    surround enclose; find determine compute calculate evaluate obtain work; distinct different; integer whole; constant
    fixed; digit figure; divisor factor; product multiply times; quotient divide; remainder modulo mod left; reciprocal
    inverse; sequence progression series; term element entry; element member; equation relation; root zero solution; zero
    root; solution root answer solve; solve satisfy solution; satisfy hold fulfil fulfill property; condition property
    requirement; function map; graph plot curve; curve graph; point dot; line straight; segment side; side edge; vertex corner
    vertices point; corner vertex vertices; perpendicular right orthogonal; collinear straight line; midpoint middle median
    bisect; bisect halve; intersect meet cross; intersection meet crossing; tangent touch; inscribe inside; circumference
    perimeter; perimeter around outline; area region; volume capacity; surface face; face side surface; base bottom; top
    upper; slope gradient steep; coordinate point; center middle centre; length long magnitude norm; magnitude length norm;
    distance length; isosceles equal; equilateral regular; congruent equal; probability chance likelihood odds likely; likely
    probable probability; random randomly chance draw; die dice; roll throw toss; toss flip throw; flip toss; ball marble; urn
    bag; chosen select pick drawn; choose select pick; way manner possibility possible; arrangement order arrange permutation;
    arrange order place seat line; order arrangement; permutation arrangement; combination choice; committee group; maximum
    max greatest largest highest most; minimum min least smallest lowest fewest; greatest largest biggest highest; smallest
    least; least minimum; form shape make; express write give; write express; simplify simplest reduce; simplest simplify
    lowest reduced; lowest simplest reduced irreducible; represent denote stand; denote let call; define definition; exist
    there; consecutive successive; ascend increase; round nearest; nearest closest round; estimate approximate; convert
    change; invest deposit; ratio proportion; proportional vary; population people inhabitant; town city village; country
    nation; hot warm; cold cool; light lamp; factory plant; produce yield output; break pause; regardless matter; flat fixed;
    attend come; venue place; necessary need; estimate figure; include cover contain; figure number; stay spend; insist
    demand; circular round; turn rotation; rotation turn rotate; consider regard count; regard consider; membership member;
    switch change; bundle combine; normally usually; subscription plan; streaming stream; salary pay; initial starting start
    original; service work; raise increase rise; policy rule; complete clock finish; obsess crazy; wonder ask curious; landed
    hit; hit strike; cause lead make result; bring take carry; head go; slip put; spend use pass; party celebration; wedding
    marriage; married wed; quadratic quartic cubic linear degree polynomial; grid lattice array; adjacent consecutive
    neighboring; inclusive between through; interval range; expand multiply; evaluate value; focus foci; polygon pentagon
    hexagon heptagon octagon nonagon decagon dodecagon regular; polygon sided side gon; quadrilateral parallelogram rectangle
    rhombus; plane coordinate flat; tail head; numerator top; denominator bottom; identical congruent; reflect mirror;
    translate shift; altitude height; cubed cube power; power exponent; sketch draw; mark label; measure size angle degree;
    measure long length; apart distance; tower stack
"""
EVERYDAY_WORDS = """
    day cost buy hour money week left leav year spend minut pay sell remain second long friend rest month new work stor
    school eat peopl person start use dollar giv mil earn averag pound student old box pric car book end run class hous
    receiv foot feet sav piec put add trip away shop collect back pair equal different worth read inch squar pag full set
    weigh cent percentag group siz item people bring only find first last previous positiv integ sum real point function
    equation express fraction common simplest enter term possibl numb valu answer integer root triangl angl sid probability
    randomly sqrt log sin cos tan degree pi
"""
EVERYDAY = frozenset(EVERYDAY_WORDS.split())


def _groups_of() -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for i, group in enumerate(_SYNONYMS.split(";")):
        for word in group.split():
            found.setdefault(stem(word), set()).add(i)
    return {word: frozenset(groups) for word, groups in found.items()}


_GROUPS = _groups_of()
_NONE: frozenset[int] = frozenset()


def meanings(word: str) -> frozenset[int]:
    """The groups of synonyms that a stem stands in."""
    return _GROUPS.get(word, _NONE)


@lru_cache(maxsize=1 << 16)
def synonymous(a: str, b: str) -> bool:
    """Can two stems mean the same?

    >>> synonymous("buy", "purchas"), synonymous("buy", "sell")
    (True, False)
    """
    return not meanings(a).isdisjoint(meanings(b))
