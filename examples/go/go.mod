module loghouse.example/go

go 1.21
