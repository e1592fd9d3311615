package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"loghouse.example/go/format"
)

// vector is a row of the files that this reader is held against.
type vector struct {
	Name        string         `json:"name"`
	Of          string         `json:"of"`
	Error       string         `json:"error"`
	Place       string         `json:"place"`
	Cluster     string         `json:"cluster_uuid"`
	Group       uint32         `json:"group"`
	Codec       uint16         `json:"codec"`
	RecordCount uint32         `json:"record_count"`
	BatchCRC    *uint32        `json:"batch_crc"`
	Fields      map[string]any `json:"fields"`
	Hex         string         `json:"hex"`
}

func (v vector) bytes() []byte {
	data, err := hex.DecodeString(v.Hex)
	if err != nil {
		panic(err)
	}
	return data
}

func read(folder, name string) (rows []vector, err error) {
	data, err := os.ReadFile(filepath.Join(folder, name))
	if err == nil {
		err = json.Unmarshal(data, &rows)
	}
	return rows, err
}

// checkVectors prints how many rows of each file are as they must be, or says which is not.
func checkVectors(folder string) error {
	for _, file := range []struct {
		name  string
		check func(v vector) (isSkipped bool, err error)
	}{
		{"entry.json", checkEntry},
		{"small_files.json", checkSmallFile},
		{"disk_refused.json", checkRefused},
		{"batch_refused.json", checkBatch},
	} {
		rows, err := read(folder, file.name)
		if err != nil {
			return err
		}
		skipped := 0
		for _, row := range rows {
			isSkipped, err := file.check(row)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", file.name, row.Name, err)
			}
			if isSkipped {
				skipped++
			}
		}
		fmt.Printf("%s %d good, %d skipped\n", file.name, len(rows)-skipped, skipped)
	}
	return nil
}

func (v vector) seed() uint32 {
	var cluster [16]byte
	data, _ := hex.DecodeString(v.Cluster)
	copy(cluster[:], data)
	return format.Seed(cluster, v.Group)
}

func checkEntry(v vector) (bool, error) {
	entry, err := format.Decode(v.seed(), v.bytes())
	if err == nil && (float64(entry.Index) != v.Fields["index"] || hex.EncodeToString(entry.Payload) != v.Fields["payload"]) {
		err = errors.New("other fields")
	}
	return false, err
}

// sample is the seed of the log that the small files are of.
var sample = format.Seed([16]byte([]byte("loghouse-test\x00\x00\x01")), 1)

func checkSmallFile(v vector) (bool, error) {
	var err error
	good := true
	switch data := v.bytes(); v.Name {
	case "hard state slot":
		_, good = decodeSlot(data, sample)
	case "start of an empty log, being installed":
		_, err = decodeState(data, "LOGHSTRT", sample)
	case "state behind the entries of entry.json", "state behind the first eight entries of entry.json: without cursors":
		_, err = decodeState(data, "LOGHSTAT", sample)
	case "node":
		_, err = decodeNode(data)
	case "damage of a log that is cut":
		_, err = decodePair(data, "LOGHDAMG", sample)
	case "held by a log that was closed":
		_, err = decodePair(data, "LOGHHELD", sample)
	default: // an index, which a reader can do without
		return true, nil
	}
	if !good {
		err = errors.New("refused")
	}
	return false, err
}

func checkRefused(v vector) (bool, error) {
	var err error
	switch data, seed := v.bytes(), v.seed(); v.Of {
	case "entry":
		_, err = format.Decode(seed, data)
	case "entries":
		err = readRun(data, seed)
	case "store header":
		_, err = decodeHeader(data)
	case "watermark":
		if _, good := decodeWatermark(data, seed); !good {
			return false, nil
		}
	case "hard state slot":
		if _, good := decodeSlot(data, seed); !good {
			return false, nil
		}
	case "start":
		_, err = decodeState(data, "LOGHSTRT", seed)
	case "node":
		_, err = decodeNode(data)
	case "held":
		_, err = decodePair(data, "LOGHHELD", seed)
	case "damage":
		_, err = decodePair(data, "LOGHDAMG", seed)
	default: // `members`, which is a node's own business
		return true, nil
	}
	return false, judge(err, v)
}

func readRun(data []byte, seed uint32) error {
	var place format.Place
	var said format.Control
	for len(data) > 0 {
		entry, err := format.Decode(seed, data)
		if err == nil {
			err = place.Join(&entry)
		}
		if err == nil {
			err = said.Apply(&entry)
		}
		if err != nil {
			return err
		}
		data = data[entry.Size():]
	}
	return nil
}

// judge says whether bytes were refused as they must be: for the field of the vector, and as newer or not.
func judge(err error, v vector) error {
	var refusal *format.Refusal
	switch {
	case err == nil:
		return errors.New("taken")
	case !errors.As(err, &refusal) || refusal.Place != v.Place:
		return fmt.Errorf("refused for something else than %s: %w", v.Place, err)
	case v.Error == "newer" != refusal.Newer && v.Error != "none":
		return fmt.Errorf("not %s: %w", v.Error, err)
	}
	return nil
}

func checkBatch(v vector) (bool, error) {
	if v.BatchCRC != nil {
		if format.Checksum(0, v.bytes()) == *v.BatchCRC {
			return false, errors.New("the checksum is right")
		}
		return false, nil
	}
	_, err := format.DecodeBatch(v.bytes(), v.Codec, v.RecordCount)
	if errors.Is(err, format.ErrCompressed) {
		return true, nil
	}
	return false, judge(err, v)
}
