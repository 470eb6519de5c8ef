"""Fact completion: sentences of our own that a fact completes. The corrupted twin has another subject of the same relation."""

from __future__ import annotations

RELATIONS: dict[str, dict[str, str]] = {
    "The capital of {} is the city of": {
        "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo",
        "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "England": "London",
        "Ireland": "Dublin", "Austria": "Vienna", "Poland": "Warsaw", "Cuba": "Havana", "Canada": "Ottawa",
        "Iraq": "Baghdad", "Iran": "Tehran", "Norway": "Oslo", "Sweden": "Stockholm", "Portugal": "Lisbon",
    },
    "Most people who live in {} speak": {
        "France": "French", "Germany": "German", "Italy": "Italian", "Spain": "Spanish", "Japan": "Japanese",
        "China": "Chinese", "Russia": "Russian", "Egypt": "Arabic", "Greece": "Greek", "England": "English",
        "Mexico": "Spanish", "Austria": "German", "Poland": "Polish", "Portugal": "Portuguese", "Brazil": "Portuguese",
        "Sweden": "Swedish", "Australia": "English", "Turkey": "Turkish", "Denmark": "Danish", "Iraq": "Arabic",
    },
    "{} is a country on the continent of": {
        "France": "Europe", "Germany": "Europe", "Italy": "Europe", "Spain": "Europe", "Poland": "Europe",
        "Japan": "Asia", "China": "Asia", "India": "Asia", "Thailand": "Asia", "Vietnam": "Asia",
        "Egypt": "Africa", "Kenya": "Africa", "Nigeria": "Africa", "Ghana": "Africa", "Morocco": "Africa",
    },
    "In a zoo one says that the young of a {} is called a": {
        "dog": "puppy", "cat": "kitten", "lion": "cub", "bear": "cub", "cow": "calf",
        "horse": "foal", "deer": "fawn", "elephant": "calf", "wolf": "pup", "tiger": "cub",
    },
    "The opposite of the word {} is the word": {
        "hot": "cold", "big": "small", "fast": "slow", "good": "bad", "up": "down",
        "left": "right", "high": "low", "old": "young", "rich": "poor", "dark": "light",
        "early": "late", "full": "empty", "hard": "soft", "open": "closed", "black": "white",
    },
    "Everybody knows that the color of {} is": {
        "grass": "green", "blood": "red", "snow": "white", "coal": "black", "milk": "white",
        "gold": "yellow", "ice": "white", "leaves": "green", "chocolate": "brown", "fire": "red",
    },
    "The month that comes right after {} is": {
        "January": "February", "February": "March", "March": "April", "April": "May", "June": "July",
        "July": "August", "August": "September", "September": "October", "October": "November", "November": "December",
    },
}  # fmt: skip
"""Sentences with a place for a subject, and what completes each."""
