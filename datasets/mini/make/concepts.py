"""Which concepts are classes of which set, and what pre-training must therefore not see."""

# Families whose drawings are learned from, and families whose drawings are only ever tested on.
SHOT_FAMILIES = ["noto", "noto-v1", "twemoji", "fxemoji"]
TEST_FAMILIES = ["emojione", "fluent-emoji", "fluent-emoji-flat"]

# set -> {class name: concept}. Novel: the concept is never in pre-training. Known: it is, in drawings of the shot
# families only.
SETS = {
    "mini-pets": {
        "dog": "dog-face", "rabbit": "rabbit-face", "pig": "pig-face", "frog": "frog", "panda": "panda",
        "tiger": "tiger-face", "monkey": "monkey-face", "lion": "lion", "fox": "fox", "owl": "owl",
    },
    "mini-cars": {
        "airplane": "airplane", "helicopter": "helicopter", "rocket": "rocket", "sailboat": "sailboat", "ship": "ship",
        "locomotive": "locomotive", "bus": "bus", "bicycle": "bicycle", "tractor": "tractor", "motorcycle": "motorcycle",
    },
    "mini-flowers": {
        "tulip": "tulip", "sunflower": "sunflower", "cactus": "cactus", "mushroom": "mushroom",
        "palm tree": "palm-tree", "banana": "banana", "watermelon": "watermelon", "grapes": "grapes",
        "strawberry": "strawberry", "pineapple": "pineapple",
    },
    "mini-caltech101": {
        "elephant": "elephant", "crab": "crab", "butterfly": "butterfly", "octopus": "octopus", "snail": "snail",
        "guitar": "guitar", "scissors": "scissors", "umbrella": "umbrella", "anchor": "anchor", "camera": "camera",
    },
}
REGIME = {"mini-pets": "novel", "mini-cars": "novel", "mini-flowers": "known", "mini-caltech101": "known"}

# Other drawings of a novel concept, or close to one: never in pre-training either.
NEAR_NOVEL = """
dog poodle guide-dog service-dog wolf hot-dog
rabbit pig pig-nose boar panda bear polar-bear koala
tiger leopard cat-face cat black-cat lion
monkey gorilla orangutan see-no-evil-monkey hear-no-evil-monkey speak-no-evil-monkey
raccoon bird eagle
airplane-arrival airplane-departure small-airplane
flying-saucer
speedboat motor-boat ferry passenger-ship canoe person-rowing-boat kite
train tram tram-car light-rail station metro monorail high-speed-train bullet-train railway-car mountain-railway
suspension-railway mountain-cableway aerial-tramway railway-track
trolleybus minibus oncoming-bus bus-stop articulated-lorry delivery-truck fire-engine ambulance
person-biking person-mountain-biking no-bicycles kick-scooter motor-scooter racing-car motorized-wheelchair
auto-rickshaw
""".split()

# Close to a known concept: like it, only in drawings of the shot families.
NEAR_KNOWN = """
rose hibiscus blossom wilted-flower bouquet brown-mushroom desert deciduous-tree desert-island beach-with-umbrella
melon cherries wine-glass mammoth lobster shrimp squid bug spiral-shell
banjo violin umbrella-with-rain-drops closed-umbrella umbrella-on-ground camera-with-flash video-camera movie-camera
""".split()


def usable(concept, family, group):
    """Whether pre-training may see this drawing."""
    novel = {c for s, classes in SETS.items() if REGIME[s] == "novel" for c in classes.values()}
    known = {c for s, classes in SETS.items() if REGIME[s] == "known" for c in classes.values()}
    if concept in novel or concept in NEAR_NOVEL or group == "Symbols":
        return False
    return family in SHOT_FAMILIES or concept not in known | set(NEAR_KNOWN)
