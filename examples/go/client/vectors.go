package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"loghouse.example/go/wire"
)

// vector is a row of wire.json or wire_refused.json.
type vector struct {
	Name   string          `json:"name"`
	Kind   uint16          `json:"kind"`
	Group  uint32          `json:"group"`
	Stream uint32          `json:"stream"`
	Stage  string          `json:"stage"`
	Code   uint16          `json:"code"`
	Fields json.RawMessage `json:"fields"`
	Hex    wire.Hex        `json:"hex"`
}

// checkVectors prints how many rows of each file are as they must be, or says which is not.
func checkVectors(folder string) error {
	for _, file := range []struct {
		name  string
		check func(v vector) (isSkipped bool, err error)
	}{{"wire.json", checkMessage}, {"wire_refused.json", checkRefused}} {
		var rows []vector
		data, err := os.ReadFile(filepath.Join(folder, file.name))
		if err == nil {
			err = json.Unmarshal(data, &rows)
		}
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

// checkMessage decodes what a client gets, and encodes what it sends; messages between nodes are skipped.
func checkMessage(v vector) (bool, error) {
	isKnown := false
	for _, request := range []wire.Request{
		&wire.Hello{}, &wire.Ping{}, &wire.Pong{}, &wire.Goodbye{}, &wire.Produce{}, &wire.Fetch{}, &wire.Follow{},
		&wire.Credit{}, &wire.Cancel{}, &wire.Describe{}, &wire.Bounds{}, &wire.FindOffset{}, &wire.RegisterProducer{},
	} {
		if request.Kind() != v.Kind {
			continue
		}
		isKnown = true
		if err := json.Unmarshal(v.Fields, request); err != nil {
			return false, err
		}
		if made := wire.Encode(request, v.Group, v.Stream); !bytes.Equal(made, v.Hex) {
			return false, errors.New("encoded to " + hex.EncodeToString(made))
		}
	}
	frame, err := wire.Read(bytes.NewReader(v.Hex))
	if err != nil || frame.Kind != v.Kind || frame.Group != v.Group || frame.Stream != v.Stream {
		return false, fmt.Errorf("the frame is read as %v, %v", frame, err)
	}
	message, err := wire.Decode(frame)
	if err != nil || message == nil {
		return !isKnown, nil
	}
	if fields, err := json.Marshal(message); err != nil || !same(fields, v.Fields) {
		return false, fmt.Errorf("decoded to %s, %v", fields, err)
	}
	return false, nil
}

func same(one, other []byte) bool {
	var left, right any
	for _, pair := range []struct {
		data []byte
		into *any
	}{{one, &left}, {other, &right}} {
		numbers := json.NewDecoder(bytes.NewReader(pair.data))
		numbers.UseNumber()
		if numbers.Decode(pair.into) != nil {
			return false
		}
	}
	return reflect.DeepEqual(left, right)
}

// checkRefused reads what must be refused; bodies that no client gets, and sessions, are skipped.
func checkRefused(v vector) (bool, error) {
	if v.Stage == "session" {
		return true, nil
	}
	frame, err := wire.Read(bytes.NewReader(v.Hex))
	if err == nil {
		if v.Stage == "header" {
			return false, errors.New("the header is taken")
		}
		var message any
		if message, err = wire.Decode(frame); message == nil && err == nil {
			return true, nil // of a kind that may be ignored
		}
	}
	var rule *wire.RuleError
	switch {
	case !errors.As(err, &rule):
		return false, fmt.Errorf("not refused: %v", err)
	case v.Stage == "body" && rule.Code == 1:
		return true, nil // of a kind that no client gets
	case rule.Code != v.Code:
		return false, fmt.Errorf("refused with code %d, not %d", rule.Code, v.Code)
	}
	return false, nil
}
