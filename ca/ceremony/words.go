package ceremony

import (
	"crypto/sha256"
	"strings"
)

// checksumWords is how many words people compare: 16 words of one octet each
// are 128 bits. S37 asks for at least twelve.
const checksumWords = 16

// Words writes the first 16 octets of a SHA-256 as words for reading aloud, in
// groups of four. The list of words is fixed for ever: transcripts contain them.
func Words(sum [sha256.Size]byte) string {
	var b strings.Builder
	for i, o := range sum[:checksumWords] {
		switch {
		case i == 0:
		case i%4 == 0:
			b.WriteString(" - ")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(wordList[o])
	}
	return b.String()
}

// WordsOf is [Words] of the SHA-256 of data.
func WordsOf(data []byte) string { return Words(sha256.Sum256(data)) }

// wordList has one word for each octet: three to eight letters, common, and not
// to be mistaken for another by ear.
var wordList = strings.Fields(`
acorn actor album amber anchor angel ankle apple april apron arrow atlas autumn award
bacon badge bamboo banana barrel basket beach beaver bench berry bicycle biscuit blanket bottle
bracket breeze brick bridge bronze bucket buffalo button cabin cactus camel camera candle canvas
carbon carpet castle cattle cedar cement cherry chicken circle citrus clock cloud cobalt coffee
copper coral cotton cradle crayon cricket crystal dagger daisy danger dentist desert diamond dinner doctor
dolphin donkey dragon drum eagle earth eclipse elbow ember engine envelope falcon farmer feather
fiddle finger flame flute forest fossil fountain fox frost funnel galaxy garden garlic ginger
giraffe glacier glove goblet gorilla granite grape guitar hammer harbor harvest hazel helmet hockey honey
horizon hotel hunter igloo indigo insect iron island ivory jacket jaguar jelly jewel jigsaw
jungle kettle keyhole kidney kitchen kiwi ladder lagoon lantern laundry leather lemon leopard library
lizard lobster locket lotus magnet mango maple marble meadow melon mirror monkey mosaic mountain
muffin museum mustard napkin nectar needle nickel ninja nugget nutmeg oasis ocean octopus olive
onion orange orbit orchid ostrich otter oyster paddle palace panda paper parrot peanut pebble
pencil pepper piano picnic pigeon pillow planet pocket poem polar pony potato prairie puzzle
pyramid quartz quiver rabbit radar rainbow raven ribbon river robin rocket rubber saddle sailor salmon
sandal saturn scarf scooter shadow silver spider spoon square stadium sugar summer sunset swan
table tango teapot temple thunder tiger timber toast tomato tractor trumpet tulip tunnel turtle
umbrella uncle valley velvet violin volcano waffle wagon walnut whale willow window wizard yogurt zebra
`)
