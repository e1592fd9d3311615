package wire

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"unicode"

	"loghouse.example/go/format"
)

const magic = 0x4C474853 // "LGHS"

// Hex is bytes that JSON shows in hex, as the test vectors do.
type Hex []byte

func (h Hex) MarshalJSON() ([]byte, error) { return json.Marshal(hex.EncodeToString(h)) }

func (h *Hex) UnmarshalJSON(data []byte) error {
	var text string
	err := json.Unmarshal(data, &text)
	if err == nil {
		*h, err = hex.DecodeString(text)
	}
	return err
}

// UUID is 16 bytes; zero means none.
type UUID [16]byte

func (u UUID) MarshalJSON() ([]byte, error) { return Hex(u[:]).MarshalJSON() }

func (u *UUID) UnmarshalJSON(data []byte) error {
	var h Hex
	err := h.UnmarshalJSON(data)
	copy(u[:], h)
	return err
}

type Hello struct {
	Role         uint8  `json:"role"`
	ClusterName  string `json:"cluster_name"`
	ClusterUUID  UUID   `json:"cluster_uuid"`
	NodeName     string `json:"node_name"`
	DiskUUID     UUID   `json:"disk_uuid"`
	VersionMin   uint16 `json:"version_min"`
	VersionMax   uint16 `json:"version_max"`
	Capabilities uint64 `json:"capabilities"`
	EntryKinds   Hex    `json:"entry_kinds"`
	Software     string `json:"software"`
}

type ProduceReply struct {
	BaseOffset  uint64 `json:"base_offset"`
	RecordCount uint32 `json:"record_count"`
	Timestamp   uint64 `json:"timestamp"`
}

// Frames is a FetchReply, or FollowFrames.
type Frames struct {
	NextOffset uint64 `json:"next_offset"`
	Frames     Hex    `json:"frames"`
}

type Server struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	GRPCAddress string `json:"grpc_address"`
	Role        uint8  `json:"role"`
	IsLeader    bool   `json:"is_leader"`
	IsAlive     bool   `json:"is_alive"`
}

type DescribeReply struct {
	ClusterUUID UUID     `json:"cluster_uuid"`
	ClusterName string   `json:"cluster_name"`
	NodeName    string   `json:"node_name"`
	Logs        [][2]any `json:"logs"` // group and name
	Servers     []Server `json:"servers"`
}

type BoundsReply struct {
	Lowest     uint64 `json:"lowest"`
	NextOffset uint64 `json:"next_offset"`
}

type FindOffsetReply struct {
	Offset    uint64 `json:"offset"`
	Timestamp uint64 `json:"timestamp"`
}

type RegisterProducerReply struct {
	ProducerID uint64 `json:"producer_id"`
}

type LeaderHint struct {
	Name string `json:"name"`
}

// Failure is a LinkError, too. It is an error of Go.
type Failure struct {
	Code    uint16   `json:"code"`
	Numbers []uint64 `json:"numbers"`
	Texts   []string `json:"texts"`
	Text    string   `json:"text"`
}

func (f *Failure) Error() string { return fmt.Sprintf("%s (code %d)", f.Text, f.Code) }

var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// body takes fields off a body; what is wrong with it is found out at its end.
type body struct {
	format.Reader
	problem string
}

func (b *body) check(good bool, problem string) {
	if !good && b.problem == "" {
		b.problem = problem
	}
}

func (b *body) long(sizeMax int) string {
	text := b.Text(int(b.U16()))
	b.check(len(text) <= sizeMax && printable(text), "a text is too long, or unprintable")
	return text
}

func printable(text string) bool {
	for _, char := range text {
		if !unicode.IsPrint(char) {
			return false
		}
	}
	return true
}

func (b *body) name(mayBeEmpty bool) string {
	text := b.Name()
	b.check(name.MatchString(text) || (mayBeEmpty && text == ""), "a name that is none")
	return text
}

func (b *body) truth() bool {
	value := b.U8()
	b.check(value < 2, "a truth that is neither")
	return value == 1
}

func (b *body) uuid() (uuid UUID) {
	copy(uuid[:], b.Take(16))
	return uuid
}

// Decode returns the message in a frame of a kind that a client may get; nil for one that it may ignore.
func Decode(frame Frame) (any, error) {
	b := &body{Reader: format.Reader{Data: frame.Body}}
	message := decode(frame.Kind, b)
	switch {
	case message == nil && frame.Kind&0x80 != 0:
		return nil, nil
	case message == nil:
		return nil, broken(1, "kind %#04x may not come here", frame.Kind)
	case b.Failed || len(b.Data) > 0 || b.problem != "":
		return nil, broken(3, "kind %#04x is malformed: %s", frame.Kind, b.problem)
	}
	return message, nil
}

func decode(kind uint16, b *body) any {
	switch kind {
	case 0x0001:
		return decodeHello(b)
	case 0x0002:
		return &Ping{b.U64()}
	case 0x0003:
		return &Pong{b.U64()}
	case 0x0004, 0x030F:
		return decodeFailure(b)
	case 0x0005:
		return &Goodbye{b.long(2048)}
	case 0x0302:
		return &ProduceReply{b.U64(), b.U32(), b.U64()}
	case 0x0304, 0x0306:
		return &Frames{b.U64(), b.Take(len(b.Data))}
	case 0x030A:
		return decodeDescribeReply(b)
	case 0x030C:
		return &BoundsReply{b.U64(), b.U64()}
	case 0x030E:
		return &FindOffsetReply{b.U64(), b.U64()}
	case 0x0311:
		return &RegisterProducerReply{b.U64()}
	case 0x0380:
		return &LeaderHint{b.name(false)}
	}
	return nil
}

func decodeHello(b *body) *Hello {
	var h Hello
	b.check(b.U32() == magic, "not the magic of a Hello")
	h.VersionMin, h.VersionMax, h.Role, h.Capabilities = b.U16(), b.U16(), b.U8(), b.U64()
	b.check(0 < h.VersionMin && h.VersionMin <= h.VersionMax, "versions that are no range")
	b.check(h.Role == 1 || h.Role == 2, "a role that is none")
	h.ClusterUUID, h.DiskUUID = b.uuid(), b.uuid()
	isClient := h.Role == 2
	h.ClusterName, h.NodeName, h.Software = b.name(isClient), b.name(isClient), b.Name()
	b.check(!isClient || (h.NodeName == "" && h.DiskUUID == UUID{}), "a client with a node's name or disk")
	h.EntryKinds = b.Take(int(b.U8()))
	b.Data = nil // of later versions
	return &h
}

func decodeFailure(b *body) *Failure {
	f := &Failure{Code: b.U16(), Numbers: []uint64{}, Texts: []string{}}
	count := b.U8()
	b.check(count <= 8, "more than 8 numbers")
	for ; count > 0 && !b.Failed; count-- {
		f.Numbers = append(f.Numbers, b.U64())
	}
	count = b.U8()
	b.check(count <= 8, "more than 8 texts")
	for ; count > 0 && !b.Failed; count-- {
		f.Texts = append(f.Texts, b.long(2048))
	}
	f.Text = b.long(2048)
	return f
}

func decodeDescribeReply(b *body) *DescribeReply {
	d := &DescribeReply{ClusterUUID: b.uuid(), ClusterName: b.name(false), NodeName: b.name(false)}
	d.Logs, d.Servers = [][2]any{}, []Server{}
	for count := b.U16(); count > 0 && !b.Failed; count-- {
		d.Logs = append(d.Logs, [2]any{b.U32(), b.name(false)})
	}
	for count := b.U16(); count > 0 && !b.Failed; count-- {
		s := Server{b.name(false), b.long(261), b.long(261), b.U8(), b.truth(), b.truth()}
		b.check(0 < s.Role && s.Role <= 3, "a role that is none")
		d.Servers = append(d.Servers, s)
	}
	return d
}
