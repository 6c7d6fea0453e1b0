"""Everyday names of the 1,000 ImageNet classes.

The classes follow WordNet's order, so most animals and many vehicles are ranges.
Captions say "dog", not "Bouvier des Flandres dog"; what is not listed keeps the name
that open_clip's curated list gives it.
"""

from __future__ import annotations

import re

_EVERYDAY = """
0-1 fish; 2-4 shark; 5-6 stingray; 7-8 chicken; 9 ostrich; 10-21 bird; 22 eagle; 23 vulture;
24 owl; 25-29 lizard; 30-32 frog; 33-37 turtle; 38-48 lizard; 49-50 alligator; 51 dinosaur;
52-68 snake; 70-78 spider; 80-83 bird; 84 peacock; 85-86 bird; 87-90 parrot; 91-96 bird;
97-98 duck; 99 goose; 100 swan; 101 elephant; 102 animal; 104 kangaroo; 106 animal; 113-116 snail;
118-121 crab; 122-124 lobster; 125 crab; 127-129 bird; 131-143 bird; 145 penguin; 146 bird;
147-148 whale; 149-150 seal; 151-268 dog; 269-272 wolf; 273-275 dog; 277-280 fox; 281-285 cat;
286-290 leopard; 294-297 bear; 298-299 animal; 300-320 insect; 321-326 butterfly; 330-332 rabbit;
335 squirrel; 336-337 beaver; 339 horse; 341-343 pig; 344 hippo; 345 cow; 346-347 bull; 348 sheep;
349-350 goat; 351-353 deer; 354 camel; 356-360 otter; 361-363 animal; 364 sloth; 365-384 monkey;
385-386 elephant; 387-388 panda; 389-397 fish; 400 gown; 402 guitar; 403 ship; 404 airplane;
405 blimp; 408 truck; 409 clock; 413 gun; 414 backpack; 417 balloon; 418 pen; 420 banjo;
423 chair; 421 railing; 427 barrel; 434 towel; 436 car; 439 hat; 440 bottle; 441 glass of beer;
442 tower; 444 bicycle; 453 bookshelf; 454 bookstore; 456 bow; 457 tie; 466 train; 468 taxi;
470 candle; 472 canoe; 475 mirror; 476 carousel; 478 box; 479 car; 480 machine; 483 castle;
484 boat; 487 phone; 489 fence; 492 chest; 493 dresser; 495 cabinet; 497 church; 504 coffee mug;
508 keyboard; 510 ship; 511 car; 513 trumpet; 514 boot; 515 hat; 516 crib; 517 crane; 518 helmet;
519 crate; 520 crib; 522 ball; 526 desk; 527 computer; 528 telephone; 530 clock; 531 watch;
532 table; 537 sled; 541 drum; 546 guitar; 547 train; 548 television; 554 boat; 555 fire truck;
559 chair; 560 helmet; 562 fountain; 564 bed; 565 train; 566 horn; 567 pan; 568 coat; 569 truck;
571 gas pump; 573 kart; 574 golf ball; 575 golf cart; 576 gondola; 578 gown; 579 piano; 581 car;
582 grocery store; 586 truck; 590 phone; 602 bar; 603 carriage; 605 ipod; 606 iron; 607 pumpkin;
609 jeep; 610 shirt; 612 rickshaw; 619 lamp; 620 laptop; 621 lawn mower; 625 boat; 627 limousine;
628 ship; 632 speaker; 639 bathing suit; 651 microwave; 652 uniform; 654 bus; 656 van;
657 missile; 659 bowl; 660 trailer; 661 car; 664 computer monitor; 665 motorcycle; 667 cap;
670 scooter; 671 bicycle; 673 computer mouse; 675 truck; 681 laptop; 690 cart; 693 paddle;
698 palace; 703 bench; 704 parking meter; 705 train; 707 pay phone; 716 fence; 717 truck;
718 pier; 721 pillow; 724 ship; 725 pitcher; 728 plastic bag; 732 camera; 733 pole; 734 van;
736 pool table; 737 bottle; 738 flower pot; 748 purse; 750 quilt; 751 race car; 752 tennis racket;
757 trailer; 759 camera; 760 refrigerator; 761 remote control; 762 restaurant; 763-764 gun;
765 rocking chair; 768 rugby ball; 770 shoe; 774 sandal; 776 saxophone; 779 school bus; 780 boat;
782 television; 795 skis; 796 mask; 803 truck; 805 soccer ball; 806 sock; 808 hat;
809 bowl of soup; 812 space shuttle; 814 boat; 815 spider web; 817 car; 819 stage; 820 train;
821 bridge; 825 stone wall; 827 stove; 829 train; 830 stretcher; 831 couch; 833 submarine;
834 suit; 836-837 sunglasses; 839 bridge; 841 sweatshirt; 842 swim trunks; 843 swing; 846 lamp;
847 tank; 850 teddy bear; 851 television; 852 tennis ball; 853 roof; 854 curtain; 858 roof;
861 toilet; 864 tow truck; 866 tractor; 867 truck; 869 coat; 871 boat; 874 bus; 876 hot tub;
878 keyboard; 879 umbrella; 881 piano; 882 vacuum; 884 ceiling; 888 bridge; 890 volleyball;
892 clock; 895 airplane; 896 sink; 898 water bottle; 900 water tower; 906 tie; 907 bottle of wine;
908 airplane; 912 fence; 913 boat; 914 sailboat; 916 website; 919 street sign; 920 traffic light;
923 plate of food; 926 pot; 927 cake; 928 ice cream; 930 bread; 931 bagel; 933 hamburger;
935 mashed potatoes; 939-942 squash; 948 apple; 959 pasta; 960 chocolate; 965 burrito;
966 glass of wine; 967 cup of coffee; 968 cup of tea; 970 mountain; 972 cliff; 975 lake;
976 ocean; 977-978 beach; 979 valley; 981 baseball player; 982 groom; 983 scuba diver;
984 field of flowers; 985 flower; 986 flower; 991-997 mushroom; 998 corn
"""


def everyday_names() -> list[str]:
    """One lower-case name a class, in the order of the classifier's outputs."""
    from open_clip import IMAGENET_CLASSNAMES

    names = [re.sub(r"\s*[(/].*", "", name).lower() for name in IMAGENET_CLASSNAMES]
    for entry in _EVERYDAY.replace("\n", " ").split(";"):
        numbers, name = entry.strip().split(" ", 1)
        first, _, last = numbers.partition("-")
        for index in range(int(first), int(last or first) + 1):
            names[index] = name
    return names


def plural(name: str) -> str:
    """The regular English plural of a name's last word."""
    if re.search(r"(s|x|z|ch|sh)$", name):
        return name if name.endswith("s") else name + "es"
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + "s"
